"""ImageNet validation from class folders and from the official archives; other labels refused."""

import io
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from repro.sources.shards.imagenet import ARCHIVE, DEVKIT, UNPACKED, validation_images
from repro.spec import SpecError

SYNSETS = ["n00000005", "n00000002", "n00000009"]
"""In the development kit's own order: numbers 1, 2, 3. Sorted they are labels 1, 0, 2."""
IMAGES = {
    "ILSVRC2012_val_00000001.JPEG": (b"one", 1),
    "ILSVRC2012_val_00000002.JPEG": (b"two", 2),
    "ILSVRC2012_val_00000003.JPEG": (b"three", 0),
}
"""File name to bytes and label."""


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_official(folder):
    """The two archives; the kit's fourth synset is an inner node, and classes count from 1."""
    kind = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("children", "O"),
    ]
    synsets = [(number, name, "words", "", 0) for number, name in enumerate(SYNSETS, start=1)]
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": np.array([*synsets, (4, "n00000001", "all", "", 3)], dtype=kind)})
    kit = {"meta.mat": matrix.getvalue(), "ILSVRC2012_validation_ground_truth.txt": b"1\n3\n2\n"}
    prefix = "ILSVRC2012_devkit_t12/data/"
    write_tar(folder / DEVKIT, {prefix + name: data for name, data in kit.items()}, "w:gz")
    write_tar(folder / ARCHIVE, {name: content for name, (content, _) in IMAGES.items()})


def write_folders(folder, images=IMAGES):
    for name, (content, label) in images.items():
        (folder / sorted(SYNSETS)[label]).mkdir(parents=True, exist_ok=True)
        (folder / sorted(SYNSETS)[label] / name).write_bytes(content)


def read(folder):
    return {image.path.name: (image.read(), image.label) for image in validation_images(folder, 3)}


def test_class_folders_and_official_archives_give_the_same_images(tmp_path, monkeypatch):
    """torchvision checks the MD5 of the true archives, and these are others."""
    write_folders(tmp_path / "folders")
    assert read(tmp_path / "folders") == IMAGES
    for label in range(11):
        (tmp_path / "labels" / str(label)).mkdir(parents=True)
        (tmp_path / "labels" / str(label) / "x.png").touch()
    by_label = validation_images(tmp_path / "labels", 11)
    assert [(image.path.parent.name, image.label) for image in by_label][9:] == [
        ("9", 9),
        ("10", 10),
    ]

    write_official(tmp_path)
    with pytest.raises(SpecError, match=rf"{DEVKIT} is not present .* or is corrupted"):
        read(tmp_path)
    monkeypatch.setattr("torchvision.datasets.imagenet._verify_archive", lambda *_: None)
    (tmp_path / f".{UNPACKED}.partial").mkdir()  # left by a killed call
    assert read(tmp_path) == IMAGES
    (tmp_path / ARCHIVE).unlink()  # unpacked once, needed no more
    assert read(tmp_path) == IMAGES


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n01440764"], r"1 sub-folders, such as \['n01440764'\] \(allowed: one for each of 3"),
        (["cats", "dogs", "eels"], r"such as \['cats', 'dogs'\] \(allowed: .* named by synset"),
        (SYNSETS, "no valid file for the classes n00000002, n00000005, n00000009"),
        (map(str, range(1000)), "1000 sub-folders, .*allowed: .* named by synset"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, names, message):
    """Numbers are no labels of ImageNet: the development kit has others."""
    names = list(names)
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(SpecError, match=message):
        validation_images(tmp_path, max(3, len(names)))
