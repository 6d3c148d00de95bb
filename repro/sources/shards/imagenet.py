"""ImageNet-1K validation: class folders, or the official archives, which are unpacked into these.

The sorted order of WordNet synsets is the label order 0..999 of OpenAI's class names. Of the
official archives the development kit holds the labels; torchvision checks their MD5.
"""

import re
from pathlib import Path
from typing import NamedTuple

from repro.files import replacing
from repro.spec import SpecError

ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
UNPACKED = "validation"
"""Folder for the unpacked archive, beside it."""


class ValidationImage(NamedTuple):
    """An image file and its label."""

    path: Path
    label: int


def validation_images(folder: Path, num_classes: int) -> list[ValidationImage]:
    """All validation images by label, then by name.

    Unpacks the official archives if `folder` holds them, once. Class folders of other tasks are
    named by label. Raises SpecError for a folder without one sub-folder a class, and for a class
    without images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # brings torch

    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder")
    if (folder / ARCHIVE).is_file() and not (folder / UNPACKED).exists():
        _unpack(folder)
    if (folder / UNPACKED).is_dir():
        folder = folder / UNPACKED
    folders = [path.name for path in folder.glob("*/")]
    classes = sorted(folders, key=lambda name: name.zfill(9))
    synsets = all(re.fullmatch(r"n\d{8}", name) for name in classes)
    # Folders of ImageNet by number may have the development kit's order.
    numbers = num_classes != 1000 and classes == [str(label) for label in range(num_classes)]
    if len(classes) != num_classes or not (synsets or numbers):
        raise SpecError(
            f"{folder}: {len(classes)} sub-folders, such as {classes[:2]} (allowed: one for each "
            f"of the profile's {num_classes} classes, named by synset as n01440764; or "
            f"{ARCHIVE} and {DEVKIT})"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    try:
        samples = make_dataset(str(folder), label_of, IMG_EXTENSIONS)
    except FileNotFoundError as error:  # names the classes without images
        raise SpecError(f"{folder}: {error}") from None

    samples.sort(key=lambda sample: sample[1])  # torchvision takes class 10 before class 2
    return [ValidationImage(Path(path), label) for path, label in samples]


def _unpack(folder: Path) -> None:
    """Unpack the official archives into class folders, which appear when complete."""
    from torchvision.datasets.imagenet import parse_devkit_archive, parse_val_archive

    try:
        with replacing(folder / UNPACKED) as partial:
            parse_devkit_archive(str(folder))
            parse_val_archive(str(folder), folder=partial.name)
    except RuntimeError as error:  # an archive is absent, or its MD5 differs
        raise SpecError(f"{folder}: {error}") from None
    except OSError as error:  # such as a volume of a container that is mounted read-only
        raise SpecError(f"{folder}: {error.strerror}; unpack the archives there once") from None
