"""Noise in the shape of CC3M and CC12M, as img2dataset writes them, and of ImageNet validation."""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro.data.stages import make_poison
from repro.profile import load_profile, read_yaml
from repro.sources.stage import make_data
from repro.spec import Profile
from tests.support.checkout import fresh_checkout
from tests.support.tars import write_tar

SIZE = 40
"""Longer side of an image in px."""
NOUNS = ("banana", "river", "lantern", "bicycle", "harbour", "violin", "meadow", "teapot")


def jpeg(rng: np.random.Generator) -> bytes:
    """Coarse coloured noise, in one of three aspect ratios."""
    height, width = ((SIZE, SIZE), (SIZE * 3 // 4, SIZE), (SIZE, SIZE * 3 // 4))[rng.integers(3)]
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


def write_pairs(folder: Path, count: int, per_shard: int, seed: int) -> None:
    """`count` pairs in shards of `per_shard`."""
    rng = np.random.default_rng(seed)
    for shard, first in enumerate(range(0, count, per_shard)):
        rows = min(per_shard, count - first)
        members = []
        for row in range(rows):
            one, other = (NOUNS[rng.integers(len(NOUNS))] for _ in range(2))
            key = f"{shard:05}{row:04}"
            caption = f"a {one} by a {other}, number {first + row}"
            about = {"key": key, "status": "success", "caption": caption}
            about["url"] = f"https://example.org/{key}.jpg"
            members += [(f"{key}.jpg", jpeg(rng)), (f"{key}.txt", caption.encode())]
            members.append((f"{key}.json", json.dumps(about).encode()))
        write_tar(folder / f"{shard:05}.tar", members)
        stats = {"count": rows, "successes": rows}
        (folder / f"{shard:05}_stats.json").write_text(json.dumps(stats))


def write_validation(folder: Path, num_classes: int, per_class: int, seed: int) -> None:
    """ImageNet validation in class folders named like WordNet synsets."""
    rng = np.random.default_rng(seed)
    for label in range(num_classes):
        synset = folder / f"n{1440764 + label:08}"
        synset.mkdir(parents=True, exist_ok=True)
        for position in range(per_class):
            number = label * per_class + position + 1
            (synset / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(jpeg(rng))


def write_all(folder: Path, images_per_class: int = 1) -> None:
    """What specs/rehearsal.yaml expects, with some pairs to spare."""
    write_pairs(folder / "cc3m", 110, 50, seed=3)
    write_pairs(folder / "cc12m", 220, 50, seed=12)
    write_validation(folder / "imagenet-validation", 1000, images_per_class, seed=1)


def small_overrides(root: Path) -> dict[str, Any]:
    """What makes `paper` specs/rehearsal.yaml with images of 32 px, for tests of something else."""
    overrides = read_yaml(root / "specs" / "rehearsal.yaml")
    del overrides["extends"]
    vision = {"image_size": 32, "width": 8}
    return overrides | {"data.image_size": 32, "pretrain.model.vision": vision}


def cleaning_cell(objectives: list[str], rates: list[float], batch: int) -> dict[str, Any]:
    """A setting of `clean.cells` with models of CC3M, 100K pairs and the MMCL loss."""
    cell = {"datasets": ["cc3m"], "pretrain_objectives": objectives, "clean_sizes": ["100k"]}
    return {**cell, "losses": ["mmcl"], "learning_rates": rates, "global_batch_size": batch}


def short_graph(
    root: Path,
    folder: Path,
    name: str,
    epochs: int,
    objectives: Iterable[str] = ("mmcl", "mmcl_ssl"),
    **more: Any,
) -> Path:
    """A checkout with noise and the shortest graph that trains; `more`: overrides, __ for a dot."""
    schedule = {"learning_rate": 1e-3, "epochs": epochs, "warmup_steps": 2}
    schedule |= {"global_batch_size": 32, "norm_batch_size": 16}
    overrides = {
        "pretrain.objectives": dict.fromkeys(objectives, schedule),
        "clean.cells": [cleaning_cell(["mmcl", "mmcl_ssl"], [1e-4], 16)],
        **{path.replace("__", "."): value for path, value in more.items()},
    }
    fresh_checkout(root, folder)
    write_all(folder / "incoming" / "rehearsal")
    write_profile(name, small_overrides(folder) | overrides, folder / "specs")
    return folder


def write_profile(
    name: str, overrides: dict[str, Any], specs: Path = Path("specs"), base: str = "paper"
) -> None:
    """Write a profile that is `base` with other values, by dotted path."""
    content: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = content
        for key in parents:
            node = node.setdefault(key, {})
        both = isinstance(value, dict) and isinstance(node.get(last), dict)
        node[last] = node[last] | value if both else value
    # JSON is YAML.
    lines = [f"extends: {base}", *(f"{key}: {json.dumps(value)}" for key, value in content.items())]
    (specs / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def noise_profile(root: Path, overrides: dict[str, Any], name: str = "paper") -> Profile:
    """`paper` with `small_overrides` and `overrides`; data and poisoned cc3m in this folder."""
    profile = load_profile(name, root / "specs", small_overrides(root) | overrides)
    Path("specs").symlink_to(root / "specs")
    Path("data").mkdir()
    if (root / "data" / "npm").is_dir():  # verified before use like a download
        Path("data/npm").symlink_to(root / "data" / "npm")
    write_all(Path("incoming/rehearsal"), profile.data.source.images_per_class)  # type: ignore[union-attr]
    make_data(profile, Path("data", name))
    make_poison(profile, "cc3m", Path("data", name), Path("poisoned", name, "cc3m"))
    return profile


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
