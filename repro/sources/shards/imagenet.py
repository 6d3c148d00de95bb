"""ImageNet-1K validation as people have it: class folders, a flat folder with labels.csv, the
official tar, parquet, webdataset.

Labels are 0..999 in the sorted order of WordNet synsets, the order of OpenAI's class names. The
official tar (`ILSVRC2012_img_val.tar`) holds no labels; they come from a file beside it:
`labels.csv`, or the development kit (`ILSVRC2012_devkit_t12.tar.gz`), whose class numbers have an
order of their own.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from repro.sources.shards.members import IMAGE_SUFFIXES, Member, tar_members
from repro.spec import SpecError

ARCHIVE = "ILSVRC2012_img_val.tar"
ARCHIVE_MD5 = "29b22e2961454d5413ddabcf34fc5622"
"""As image-net.org gives it, and torchvision checks it (torchvision/datasets/imagenet.py)."""
DEVKIT = "ILSVRC2012_devkit_t12"
CANARY = {1: 65, 2: 970, 3: 230, 4: 809, 5: 516, 6: 57}
"""True labels of the first images by the number in their names (Caffe's val.txt): what shuffled
labels would not give.
"""
CANARY_CLASSES = 1000
MAX_LIST_BYTES = 64 * 2**20
"""Largest list of labels or classes that is read."""


class ValidationImage(NamedTuple):
    """One image: name for messages, label, and a function that reads its file."""

    name: str
    label: int
    read: Callable[[], bytes]


def validation_images(source: Path, num_classes: int) -> list[ValidationImage]:
    """All validation images of a folder or tar, in the order of their listing.

    SpecError if the layout is none of the five, a label is out of range, a class has no image, an
    image is there twice or the labels are not those of ImageNet.
    """
    images = list(_images(source, num_classes))
    if wrong := next((image for image in images if not 0 <= image.label < num_classes), None):
        raise SpecError(
            f"{source}: {wrong.name}: label {wrong.label} (allowed: 0 to {num_classes - 1})"
        )

    if empty := sorted(set(range(num_classes)) - {image.label for image in images}):
        raise SpecError(
            f"{source}: no image of {len(empty)} classes, the first {empty[0]} (allowed: images "
            f"of all {num_classes})"
        )
    _check_names(source, images, num_classes)
    return images


def is_official(source: Path) -> bool:
    """Whether `source` is, or holds, the official tar, by its checksum."""
    path = source / ARCHIVE if source.is_dir() else source
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            == ARCHIVE_MD5
        )


def _images(
    source: Path, num_classes: int
) -> Iterator[ValidationImage] | Sequence[ValidationImage]:
    if source.is_file():
        return _tar_images(source)
    if (source / ARCHIVE).is_file():
        return _tar_images(source / ARCHIVE)
    # The folder may hold the training set too: where there are validation files, only they count.
    if tables := sorted(source.glob("validation-*.parquet")) or sorted(source.glob("*.parquet")):
        return _parquet_images(tables)
    if tars := sorted(source.glob("*.tar")):
        return _webdataset_images(tars)
    return (
        ValidationImage(path.name, label, path.read_bytes)
        for path, label in labelled_images(source, num_classes)
    )


def _check_names(source: Path, images: Sequence[ValidationImage], num_classes: int) -> None:
    """Official names must be unique, and the first of them must have their labels."""
    numbers = [
        int(match[1]) if (match := re.search(r"ILSVRC2012_val_(\d{8})", image.name)) else None
        for image in images
    ]
    repeated = [
        number for number, times in Counter(numbers).items() if number is not None and times > 1
    ]
    if repeated:
        raise SpecError(
            f"{source}: ILSVRC2012_val_{repeated[0]:08d} is there more than once, as are "
            f"{len(repeated) - 1} others"
        )

    # Shuffled labels would hardly keep all six that are known.
    for image, number in zip(images, numbers, strict=True):
        if num_classes == CANARY_CLASSES and number in CANARY and image.label != CANARY[number]:
            raise SpecError(
                f"{source}: {image.name} has label {image.label} (allowed: {CANARY[number]}); the "
                "labels are shuffled, "
                "or the classes are not in the sorted order of their synsets"
            )


def labelled_images(folder: Path, num_classes: int) -> Iterator[tuple[Path, int]]:
    """Image paths and labels, from either layout of ImageNet validation.

    Flat with `labels.csv` (columns image and label: the authors' layout), or a sub-folder a class,
    named by WordNet synset (their sorted order is the label order of ImageNet-1K) or by label.
    SpecError for anything else.
    """
    listing = folder / "labels.csv"
    if listing.is_file():
        for line, row in enumerate(_read_listing(listing), start=2):
            image, label = row.get("image") or "", row.get("label") or ""
            path = folder / image
            if not image or "\0" in image or not path.resolve().is_relative_to(folder.resolve()):
                raise SpecError(
                    f"{listing}: line {line}: image: {image!r} (allowed: a path inside {folder})"
                )
            if not label.isdecimal() or int(label) >= num_classes:
                raise SpecError(
                    f"{listing}: line {line}: label: {label!r} (allowed: 0 to {num_classes - 1})"
                )
            yield path, int(label)
        return

    classes = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if len(classes) != num_classes:
        raise SpecError(
            f"data.yaml: source.evaluation: {folder} has {len(classes)} sub-folders and no "
            "labels.csv "
            f"(allowed: one sub-folder for each of the {num_classes} classes, images with "
            f"labels.csv, {ARCHIVE}, "
            "parquet files, or webdataset shards)"
        )

    if all(re.fullmatch(r"n\d{8}", name) for name in classes):
        labels = {name: label for label, name in enumerate(classes)}
    elif sorted(classes, key=lambda name: name.zfill(9)) == [
        str(label) for label in range(num_classes)
    ]:
        labels = {name: int(name) for name in classes}
    else:
        raise SpecError(
            f"{folder}: sub-folder {classes[0]!r} ... (allowed: synsets such as n01440764, or "
            "labels 0, 1, ...)"
        )
    for name, number in sorted(labels.items(), key=lambda item: item[1]):
        for path in sorted((folder / name).iterdir()):
            yield path, number


def _tar_images(path: Path) -> list[ValidationImage]:
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(
            path, "r:"
        ) as archive:  # uncompressed, so that members can be read in place
            for member in archive:
                if member.isfile():
                    members[PurePosixPath(member.name).name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise SpecError(f"{path}: not an uncompressed tar: {error}") from None
    # The kit's labels go by the order of names.
    names = sorted(members)
    labels = _labels_beside(path, names)
    if absent := [name for name in names if name not in labels]:
        raise SpecError(f"{path}: no label of {len(absent)} images, the first {absent[0]}")
    return [
        ValidationImage(name, labels[name], functools.partial(_read_part, path, *members[name]))
        for name in names
    ]


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def _parquet_images(paths: Sequence[Path]) -> Iterator[ValidationImage]:
    """Rows with a column `label` and a column `image`: the file's bytes, or a struct of `bytes`
    and `path`.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SpecError(
            f"{paths[0]}: parquet files need pyarrow; install it with: pip install -c "
            "constraints.txt pyarrow"
        ) from None
    for path in paths:
        try:
            table = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise SpecError(f"{path}: not a parquet file: {error}") from None
        if absent := {"image", "label"} - set(table.schema_arrow.names):
            raise SpecError(f"{path}: no column {min(absent)!r} (allowed: columns image and label)")
        kind = table.schema_arrow.field("image").type
        with_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        # Only names and labels now: the images of a group are read when their turn comes.
        for group in range(table.num_row_groups):
            columns = table.read_row_group(
                group, columns=["image.path", "label"] if with_path else ["label"]
            ).to_pydict()
            names = (
                [(image or {}).get("path") or "" for image in columns["image"]]
                if with_path
                else [""] * len(columns["label"])
            )
            for row, (name, label) in enumerate(zip(names, columns["label"], strict=True)):
                label = -1 if label is None else int(label)
                yield ValidationImage(
                    name or f"{path.name}:{group}:{row}",
                    label,
                    functools.partial(_read_cell, path, group, row),
                )


@functools.lru_cache(maxsize=1)  # rows are read in their order
def _row_group(path: Path, group: int) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read_row_group(group, columns=["image"]).column(0)


def _read_cell(path: Path, group: int, row: int) -> bytes:
    cell = _row_group(path, group)[row].as_py()
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else b""


def _webdataset_images(paths: Sequence[Path]) -> Iterator[ValidationImage]:
    """Groups of an image and a `.cls` file with its label; SpecError for damaged archives and
    images without label.
    """
    for path in paths:
        faults: Counter[str] = Counter()
        images: dict[str, tuple[str, Member]] = {}
        labels: dict[str, Member] = {}
        for name, member in tar_members(path, faults):
            stem, _, suffix = name.partition(".")
            if suffix.lower() in IMAGE_SUFFIXES:
                images[stem] = (name, member)
            elif suffix == "cls":
                labels[stem] = member
        if faults:
            raise SpecError(f"{path}: damaged: {dict(faults)}")
        for stem, (name, member) in images.items():
            text = (
                _read_part(path, *labels[stem]).decode("ascii", "replace").strip()
                if stem in labels
                else ""
            )
            if not text.isdecimal():
                raise SpecError(
                    f"{path}: {name}: label: {text!r} (allowed: a whole number in {stem}.cls)"
                )
            yield ValidationImage(
                PurePosixPath(name).name, int(text), functools.partial(_read_part, path, *member)
            )


def _read_listing(path: Path) -> list[dict[str, str]]:
    """Lines of a labels.csv; SpecError if it is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _labels_beside(path: Path, names: list[str]) -> dict[str, int]:
    """Image name to label, from labels.csv or the development kit in the folder of the tar."""
    listing, devkit = path.with_name("labels.csv"), path.with_name(f"{DEVKIT}.tar.gz")
    if listing.is_file():
        rows = [(row.get("image") or "", row.get("label") or "") for row in _read_listing(listing)]
        if (wrong := next((label for _, label in rows if not label.isdecimal()), None)) is not None:
            raise SpecError(
                f"{listing}: label: {wrong!r} (allowed: whole numbers, in columns image and label)"
            )
        return {PurePosixPath(image).name: int(label) for image, label in rows}
    if devkit.is_file():
        # They bear no names: their number must fit, and the canaries are checked later.
        numbers = _devkit_labels(devkit)
        if len(numbers) != len(names):
            raise SpecError(
                f"{devkit}: labels of {len(numbers)} images, but {path} holds {len(names)}"
            )
        return dict(zip(names, numbers, strict=True))
    raise SpecError(f"{path}: holds no labels (allowed: labels.csv or {devkit.name} beside it)")


def _devkit_labels(devkit: Path) -> list[int]:
    """Labels in the sorted order of synsets, one for each image in the order of names."""
    from scipy.io import loadmat  # slow to import, needed for this one file

    try:
        with tarfile.open(devkit, "r:gz") as archive:
            truth = (
                _list_member(archive, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt")
                .decode("ascii")
                .split()
            )
            synsets = loadmat(
                io.BytesIO(_list_member(archive, f"{DEVKIT}/data/meta.mat")), squeeze_me=True
            )["synsets"]
        # Inner nodes of the hierarchy have children and are no classes.
        numbered = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets
            if row["num_children"] == 0
        }
        label_of = {synset: label for label, synset in enumerate(sorted(numbered.values()))}
        return [label_of[numbered[int(number)]] for number in truth]
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:
        raise SpecError(
            f"{devkit}: not the development kit of ILSVRC2012: {type(error).__name__}: {error}"
        ) from None


def _list_member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    # One byte more than is allowed, to see whether there is more.
    content = file.read(MAX_LIST_BYTES + 1) if file else b""
    if not 0 < len(content) <= MAX_LIST_BYTES:
        raise ValueError(f"{name} is no file of 1 to {MAX_LIST_BYTES} bytes")
    return content
