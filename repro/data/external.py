"""The data set of the paper from the user's disk: pairs in webdataset shards, ImageNet-1K validation as zero-shot task.

Pairs stay where they are, the stores of the slots are overlays over the user's shards; evaluation images are copied into
shards of our own, since they come as 50,000 loose files.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.data.images import ImageError, open_rgb
from repro.data.keyed import keyed_subset
from repro.data.packages import WORDNET_CREDIT
from repro.data.shards import ShardWriter, StoreError, write_json, write_store
from repro.data.tars import index_shards
from repro.spec import Profile, ShardSource, SpecError, load_classnames


def build_external(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises StoreError if a folder holds nothing usable, if more than `max_drop_fraction` of its rows cannot be used, or if a
    class has no evaluation image.
    """
    source = profile.data.source
    assert isinstance(source, ShardSource)
    sources: dict[str, Any] = {}
    used: dict[str, int] = {}
    for slot, count in profile.data.num_pairs.items():
        folder = Path(source.pairs[slot])
        index, shards, accounting = index_shards(folder)
        _check_drops(folder, accounting.dropped, accounting.listed, source.max_drop_fraction)
        # One order for all slots: where cc3m and cc6m are one folder, the smaller is nested in the larger.
        rows = keyed_subset([key.tobytes() for key in index.keys], count, "slot")
        (out / slot).mkdir()
        here = [dataclasses.replace(shard, path=os.path.relpath(folder / shard.path, out / slot)) for shard in shards]
        write_store(out / slot, index.take(rows), here)
        sources[slot], used[slot] = vars(accounting), len(rows)
    sources["evaluation"] = _build_evaluation(Path(source.evaluation), load_classnames(profile), out, source.max_drop_fraction)
    used["evaluation"] = sources["evaluation"]["decoded"]
    write_json(out / "accounting.json", {"sources": sources, "used": used})
    write_json(out / "attribution.json", {"changes": "none; read from the user's disk", "images": [], "text": [WORDNET_CREDIT]})


def _build_evaluation(folder: Path, names: list[str], out: Path, max_drop_fraction: float) -> dict[str, Any]:
    (out / "evaluation").mkdir()
    writer = ShardWriter(out / "evaluation")
    dropped: Counter[str] = Counter()
    per_class: Counter[int] = Counter()
    listed = list(labelled_images(folder, len(names)))
    for path, label in listed:
        try:
            data = path.read_bytes()
            open_rgb(data)
        except FileNotFoundError:
            dropped["missing"] += 1
            continue
        except ImageError as error:
            dropped[error.reason] += 1
            continue
        per_class[label] += 1
        writer.add(data, _suffix(data), names[label], label)
    index, shards = writer.close()
    _check_drops(folder, dropped, len(listed), max_drop_fraction)
    if empty := [names[label] for label in range(len(names)) if not per_class[label]]:
        raise StoreError(f"{folder}: no image of {len(empty)} classes, the first {empty[0]!r} (allowed: images of every class)")
    write_store(out / "evaluation", index, shards)
    return {
        "listed": len(listed),
        "obtained": len(listed) - dropped["missing"],
        "decoded": len(index),
        "duplicate": len(index) - len({row.image_hash for row in writer.rows}),
        "dropped": dict(dropped),
        "images_per_class": [min(per_class.values()), max(per_class.values())],
    }


def labelled_images(folder: Path, num_classes: int) -> Iterator[tuple[Path, int]]:
    """Image paths and labels, from either layout of ImageNet validation.

    Flat with `labels.csv` (columns image and label: the authors' layout), or a sub-folder a class, named by WordNet synset
    (their sorted order is the label order of ImageNet-1K) or by label. SpecError for anything else.
    """
    listing = folder / "labels.csv"
    if listing.is_file():
        with listing.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                image, label = row.get("image") or "", row.get("label") or ""
                path = folder / image
                if not image or not path.resolve().is_relative_to(folder.resolve()):
                    raise SpecError(f"{listing}: line {line}: image: {image!r} (allowed: a path inside {folder})")
                if not label.isdecimal() or int(label) >= num_classes:
                    raise SpecError(f"{listing}: line {line}: label: {label!r} (allowed: 0 to {num_classes - 1})")
                yield path, int(label)
        return
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) != num_classes:
        raise SpecError(
            f"data.yaml: source.evaluation: {folder} has {len(classes)} sub-folders and no labels.csv "
            f"(allowed: one sub-folder for each of the {num_classes} classes, or images with labels.csv)"
        )
    if all(re.fullmatch(r"n\d{8}", name) for name in classes):
        labels = {name: label for label, name in enumerate(classes)}
    elif sorted(classes, key=lambda name: name.zfill(9)) == [str(label) for label in range(num_classes)]:
        labels = {name: int(name) for name in classes}
    else:
        raise SpecError(f"{folder}: sub-folder {classes[0]!r} ... (allowed: synsets such as n01440764, or labels 0, 1, ...)")
    for name, label in sorted(labels.items(), key=lambda item: item[1]):
        for path in sorted((folder / name).iterdir()):
            yield path, label


def _suffix(data: bytes) -> str:
    """File suffix by the bytes, for names lie."""
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"


def _check_drops(folder: Path, dropped: Counter[str], listed: int, allowed: float) -> None:
    if listed and dropped.total() > allowed * listed:
        raise StoreError(f"{folder}: {dropped.total()} of {listed} rows cannot be used ({dict(dropped)}; allowed: {allowed:.2%})")
