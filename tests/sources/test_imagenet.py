"""The five layouts of ImageNet validation give the same images and labels; anything else is refused
by name.
"""

import io
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from repro.sources.shards.imagenet import CANARY, DEVKIT, is_official, validation_images
from repro.spec import SpecError

SYNSETS = ["n00000005", "n00000002", "n00000009"]
"""In the development kit's own order: numbers 1, 2, 3. Sorted they are labels 1, 0, 2."""
IMAGES = {
    f"ILSVRC2012_val_0000000{number}.JPEG": content
    for number, content in ((1, (b"one", 1)), (2, (b"two", 2)), (3, (b"three", 0)))
}
"""File name to bytes and label."""


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_devkit(folder, truth="1\n3\n2\n"):
    """A kit whose fourth synset is an inner node; `truth` numbers the images' classes from 1."""
    kind = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    synsets = np.array(
        [(number + 1, name, 0) for number, name in enumerate(SYNSETS)] + [(4, "n00000001", 3)],
        dtype=kind,
    )
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": synsets})
    data = {
        "data/meta.mat": matrix.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    return write_tar(
        folder / f"{DEVKIT}.tar.gz",
        {f"{DEVKIT}/{name}": content for name, content in data.items()},
        "w:gz",
    )


def write_csv(path, rows):
    path.write_text(
        "image,label\n" + "".join(f"{image},{label}\n" for image, label in rows), encoding="utf-8"
    )


def official(folder):
    return write_tar(
        folder / "ILSVRC2012_img_val.tar", {name: content for name, (content, _) in IMAGES.items()}
    )


def read(source):
    return {image.name: (image.read(), image.label) for image in validation_images(source, 3)}


def test_all_layouts_give_the_same_images_and_labels(tmp_path):
    folders, flat, with_csv, with_kit = (
        tmp_path / name for name in ("folders", "flat", "csv", "kit")
    )
    for folder in (flat, with_csv, with_kit):
        folder.mkdir()
    for name, (content, label) in IMAGES.items():
        (folders / sorted(SYNSETS)[label]).mkdir(parents=True)
        (folders / sorted(SYNSETS)[label] / name).write_bytes(content)
        (flat / name).write_bytes(content)
    write_csv(flat / "labels.csv", [(name, label) for name, (_, label) in IMAGES.items()])
    write_csv(
        with_csv / "labels.csv", [(f"images/{name}", label) for name, (_, label) in IMAGES.items()]
    )
    write_devkit(with_kit)
    assert (
        read(folders)
        == read(flat)
        == read(official(with_csv))
        == read(official(with_kit))
        == IMAGES
    )
    assert read(with_kit) == IMAGES
    assert not is_official(with_kit)


def write_parquet(path, images):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True)
    content = [image for image, _ in images.values()]
    structs = [{"bytes": image, "path": name} for name, image in zip(images, content, strict=True)]
    parquet.write_table(
        pa.table({"image": structs, "label": [label for _, label in images.values()]}),
        path,
        row_group_size=2,
    )
    return path.parent


def test_parquet_files_are_read_with_their_names_or_without(tmp_path):
    folder = write_parquet(tmp_path / "named" / "validation-00000-of-00001.parquet", IMAGES)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"never opened")
    assert read(folder) == IMAGES
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "plain").mkdir()
    parquet.write_table(
        pa.table({"image": [b"a", b"b", b"c"], "label": [2, 0, 1]}),
        tmp_path / "plain" / "x.parquet",
    )
    assert read(tmp_path / "plain") == {
        "x.parquet:0:0": (b"a", 2),
        "x.parquet:0:1": (b"b", 0),
        "x.parquet:0:2": (b"c", 1),
    }


@pytest.mark.faults(15)
def test_parquet_files_of_something_else_are_refused(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"picture": [b"a"], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(
        SpecError, match=r"x.parquet: no column 'image' \(allowed: columns image and label\)"
    ):
        validation_images(tmp_path, 3)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(SpecError, match=r"x.parquet: not a parquet file"):
        validation_images(tmp_path, 3)


def webdataset(folder, labels):
    members = {f"{name.partition('.')[0]}.jpg": content for name, (content, _) in IMAGES.items()}
    return write_tar(
        folder / "imagenet1k-validation-00.tar",
        members | {f"{name}.cls": text for name, text in labels.items()},
    )


def test_webdataset_shards_are_read_by_their_cls_files(tmp_path):
    webdataset(
        tmp_path, {name.partition(".")[0]: b"%d\n" % label for name, (_, label) in IMAGES.items()}
    )
    assert read(tmp_path) == {
        name.replace(".JPEG", ".jpg"): image for name, image in IMAGES.items()
    }


@pytest.mark.faults(15)
def test_webdataset_shards_without_labels_or_cut_short_are_refused(tmp_path):
    path = webdataset(tmp_path, {})
    with pytest.raises(
        SpecError,
        match=r"val_00000001.jpg: label: '' \(allowed: a whole number in ILSVRC2012_val_00000001.cls\)",
    ):
        validation_images(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(SpecError, match=r"damaged: {'truncated': 1}"):
        validation_images(tmp_path, 3)


@pytest.mark.faults(15)
def test_labels_that_are_not_those_of_imagenet_are_recognised_by_the_first_images(tmp_path):
    """A full set of 1,000 classes passes with the true labels, and not when they are rotated by one
    or an image is there twice.
    """
    labels = {f"ILSVRC2012_val_{number:08d}.JPEG": label for number, label in CANARY.items()}
    others = set(range(1000)) - set(CANARY.values())
    labels |= {
        f"ILSVRC2012_val_{number:08d}.JPEG": label
        for number, label in enumerate(sorted(others), start=1 + len(CANARY))
    }
    for name in labels:
        (tmp_path / name).touch()
    write_csv(tmp_path / "labels.csv", labels.items())
    assert len(validation_images(tmp_path, 1000)) == 1000
    write_csv(
        tmp_path / "labels.csv", [(name, (label + 1) % 1000) for name, label in labels.items()]
    )
    with pytest.raises(
        SpecError, match=r"val_00000001.JPEG has label 66 \(allowed: 65\); the labels are shuffled"
    ):
        validation_images(tmp_path, 1000)
    write_csv(tmp_path / "labels.csv", [*labels.items(), ("ILSVRC2012_val_00000009.JPEG", 3)])
    with pytest.raises(SpecError, match=r"ILSVRC2012_val_00000009 is there more than once"):
        validation_images(tmp_path, 1000)


@pytest.mark.faults(15)
def test_a_class_without_images_is_refused(tmp_path):
    write_csv(
        tmp_path / "labels.csv", [(name, min(label, 1)) for name, (_, label) in IMAGES.items()]
    )
    for name in IMAGES:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        SpecError, match=r"no image of 1 classes, the first 2 \(allowed: images of all 3\)"
    ):
        validation_images(tmp_path, 3)


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda folder: None,
            r"holds no labels \(allowed: labels.csv or ILSVRC2012_devkit_t12.tar.gz beside it\)",
        ),
        (
            lambda folder: write_csv(folder / "labels.csv", [(min(IMAGES), 1)]),
            "no label of 2 images, the first ILSVRC2012_val_00000002",
        ),
        (lambda folder: write_csv(folder / "labels.csv", [("a", "x")]), "label: 'x'"),
        (
            lambda folder: write_csv(folder / "labels.csv", [(name, 7) for name in IMAGES]),
            r"00000001.JPEG: label 7 \(allowed: 0 to 2\)",
        ),
        (lambda folder: write_devkit(folder, "1\n3\n"), "labels of 2 images, but .* holds 3"),
        (lambda folder: write_devkit(folder, "1\n3\n4\n"), "not the development kit"),
        (lambda folder: write_devkit(folder, "1\nx\n2\n"), "not the development kit"),
        (
            lambda folder: (folder / f"{DEVKIT}.tar.gz").write_bytes(b"no archive"),
            "not the development kit",
        ),
        (
            lambda folder: write_tar(folder / f"{DEVKIT}.tar.gz", {"other": b""}, "w:gz"),
            "not the development kit",
        ),
    ],
)
def test_a_tar_needs_a_label_for_every_image(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(SpecError, match=message):
        validation_images(official(tmp_path), 3)


@pytest.mark.faults(15)
def test_a_file_that_is_no_tar_is_refused(tmp_path):
    for name, content in (("empty.tar", b""), ("text.tar", b"no archive" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SpecError, match="not an uncompressed tar"):
            validation_images(tmp_path / name, 3)
