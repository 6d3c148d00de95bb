"""ImageNet-1K validation as people have it: class folders, a flat folder with labels.csv, or the official tar.

Labels are 0..999 in the sorted order of WordNet synsets, the order of OpenAI's class names. The official tar
(`ILSVRC2012_img_val.tar`) holds no labels; they come from a file beside it: `labels.csv`, or the development kit
(`ILSVRC2012_devkit_t12.tar.gz`), whose class numbers have an order of their own.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from repro.data.external import labelled_images
from repro.spec import SpecError

DEVKIT = "ILSVRC2012_devkit_t12"
MAX_LIST_BYTES = 64 * 2**20
"""Largest list of labels or classes that is read."""


class ValidationImage(NamedTuple):
    """One image: name for messages, label, and a function that reads its file."""

    name: str
    label: int
    read: Callable[[], bytes]


def validation_images(source: Path, num_classes: int) -> list[ValidationImage]:
    """All validation images of a folder or tar, in the order of their listing.

    SpecError if the layout is none of the three, a label is out of range, or a class has no image.
    """
    if source.is_file():
        images = _tar_images(source)
    else:
        images = [ValidationImage(path.name, label, path.read_bytes) for path, label in labelled_images(source, num_classes)]
    if wrong := next((image for image in images if not 0 <= image.label < num_classes), None):
        raise SpecError(f"{source}: {wrong.name}: label {wrong.label} (allowed: 0 to {num_classes - 1})")
    if empty := sorted(set(range(num_classes)) - {image.label for image in images}):
        raise SpecError(f"{source}: no image of {len(empty)} classes, the first {empty[0]} (allowed: images of all {num_classes})")
    return images


def _tar_images(path: Path) -> list[ValidationImage]:
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:  # uncompressed, so that members can be read in place
            for member in archive:
                if member.isfile():
                    members[PurePosixPath(member.name).name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise SpecError(f"{path}: not an uncompressed tar: {error}") from None
    names = sorted(members)
    labels = _labels_beside(path, names)
    if absent := [name for name in names if name not in labels]:
        raise SpecError(f"{path}: no label of {len(absent)} images, the first {absent[0]}")
    return [ValidationImage(name, labels[name], functools.partial(_read_part, path, *members[name])) for name in names]


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def _labels_beside(path: Path, names: list[str]) -> dict[str, int]:
    """Image name to label, from labels.csv or the development kit in the folder of the tar."""
    listing, devkit = path.with_name("labels.csv"), path.with_name(f"{DEVKIT}.tar.gz")
    if listing.is_file():
        with listing.open(newline="", encoding="utf-8") as file:
            rows = [(row.get("image") or "", row.get("label") or "") for row in csv.DictReader(file)]
        if wrong := next((label for _, label in rows if not label.isdecimal()), None):
            raise SpecError(f"{listing}: label: {wrong!r} (allowed: whole numbers, in columns image and label)")
        return {PurePosixPath(image).name: int(label) for image, label in rows}
    if devkit.is_file():
        numbers = _devkit_labels(devkit)
        if len(numbers) != len(names):
            raise SpecError(f"{devkit}: labels of {len(numbers)} images, but {path} holds {len(names)}")
        return dict(zip(names, numbers, strict=True))
    raise SpecError(f"{path}: holds no labels (allowed: labels.csv or {devkit.name} beside it)")


def _devkit_labels(devkit: Path) -> list[int]:
    """Labels in the sorted order of synsets, one for each image in the order of names."""
    from scipy.io import loadmat  # slow to import, needed for this one file

    try:
        with tarfile.open(devkit, "r:gz") as archive:
            truth = _list_member(archive, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt").decode("ascii").split()
            synsets = loadmat(io.BytesIO(_list_member(archive, f"{DEVKIT}/data/meta.mat")), squeeze_me=True)["synsets"]
        # Inner nodes of the hierarchy have children and are no classes.
        numbered = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if row["num_children"] == 0}
        label_of = {synset: label for label, synset in enumerate(sorted(numbered.values()))}
        return [label_of[numbered[int(number)]] for number in truth]
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:
        raise SpecError(f"{devkit}: not the development kit of ILSVRC2012: {type(error).__name__}: {error}") from None


def _list_member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    content = file.read(MAX_LIST_BYTES + 1) if file else b""
    if not 0 < len(content) <= MAX_LIST_BYTES:
        raise ValueError(f"{name} is no file of 1 to {MAX_LIST_BYTES} bytes")
    return content
