"""Stores of pairs and of evaluation images for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from repro.data.images import encode_png
from repro.data.shards import ShardWriter, write_store
from repro.evaluate.images import EvaluationSet
from repro.profile import load_profile
from repro.spec import Switches, Trigger


def blocks(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Images (count, height, width, 3) of coarse blocks, which a patch and a squash change."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4, width // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def write_rows(folder: Path, rows: Iterable[tuple[np.ndarray | bytes, str, int]]) -> Path:
    """A store of images (or their files), captions and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder)
    for image, caption, label in rows:
        content = image if isinstance(image, bytes) else encode_png(image)
        writer.add(content, "png", caption, label)
    write_store(folder, *writer.close())
    return folder


def write_images(folder: Path, images: Iterable[np.ndarray], classes: int) -> Path:
    """A store of the images; their labels go round the classes."""
    rows = ((image, "", number % classes) for number, image in enumerate(images))
    return write_rows(folder, rows)


def switches(**changed: str) -> Switches:
    """Those of the profile smoke, but for the changed ones."""
    return load_profile("smoke").switches.model_copy(update=changed)


def evaluation_set(folder: Path, size: int, trigger: Trigger, settings: Switches) -> EvaluationSet:
    """The store in `folder` as an evaluation set; target class 1, seed 0."""
    return EvaluationSet(folder, size, 1, trigger, settings, 0, folder / "cache")
