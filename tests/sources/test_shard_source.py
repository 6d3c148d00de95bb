"""The data stage on the user's own shards and ImageNet images: taken, refused, counted."""

import io
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from repro.data.shards import PairStore, StoreError
from repro.profile import load_profile
from repro.sources.shards.build import build_external, select
from repro.sources.shards.imagenet import ARCHIVE, DEVKIT, UNPACKED, validation_images
from repro.sources.shards.tars import index_shards
from repro.sources.stage import data_stage
from repro.spec import Profile, ShardSource, SpecError
from tests.support.tars import pair, png, write_tar

SPECS = Path(__file__).parents[2] / "specs"

CLASSES = ["tench", "goldfish", "banana"]


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Smoke over 12 pairs in shards and three ImageNet-like classes of two images each."""
    for slot in ("cc3m", "cc6m"):
        write_tar(tmp_path / slot / "00000.tar", pairs(range(12)))
    for label, synset in enumerate(("n01440764", "n01443537", "n07753592")):
        folder = tmp_path / "imagenet" / synset
        folder.mkdir(parents=True)
        for i in range(2):
            (folder / f"{i}.JPEG").write_bytes(png(100 + 2 * label + i))
    names = tmp_path / "specs" / "classnames"
    names.mkdir(parents=True)
    (names / "imagenet.txt").write_text("\n".join(CLASSES) + "\n")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    smoke = load_profile("smoke", SPECS)
    source = ShardSource(
        kind="webdataset",
        pairs={"cc3m": "cc3m", "cc6m": "cc6m"},
        selection={"cc3m": "keyed", "cc6m": "keyed"},
        evaluation="imagenet",
        images_per_class=2,
        max_drop_fraction=0.1,
    )
    evaluate = smoke.evaluate.model_copy(update={"classnames": "imagenet"})
    by_shards = with_data(smoke, source=source, num_pairs={"cc3m": 4, "cc6m": 8})
    return by_shards.model_copy(update={"evaluate": evaluate})


def pairs(rows: Iterable[int]) -> list[tuple[str, bytes]]:
    """Members of a shard with these rows."""
    return [member for row in rows for member in pair(row)]


def with_data(profile: Profile, **changes: Any) -> Profile:
    """The profile with other settings of its data."""
    data = profile.data.model_copy(update=changes)
    return profile.model_copy(update={"data": data})


def accounting_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "accounting.json").read_text())
    return content


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a usable GPU")
def test_gpus_that_torch_cannot_use_end_the_data_stage(tmp_path, monkeypatch):
    """As behind too old a driver: before a day is spent on data that nothing trains on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(RuntimeError, match="GPUs 0 are there, but torch"):
        data_stage("paper")


def test_the_data_stage_lays_stores_over_the_users_shards(profile, tmp_path):
    out = tmp_path / "out"
    build_external(profile, out)

    cc3m = PairStore.open(out / "cc3m")
    cc6m = PairStore.open(out / "cc6m")
    assert len(cc3m) == 4
    assert len(cc6m) == 8
    assert set(cc3m.captions) < set(cc6m.captions)
    assert not list((out / "cc6m").glob("*.tar"))
    row = int(cc6m.captions[0].removeprefix("caption "))
    assert cc6m.image_bytes(0) == png(row)

    evaluation = PairStore.open(out / "evaluation")
    assert evaluation.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for i in range(6):
        assert evaluation.image_bytes(i) == png(100 + i)

    accounting = accounting_of(out)
    assert accounting["used"] == {"cc3m": 4, "cc6m": 8, "evaluation": 6}
    for account in accounting["sources"].values():
        assert account["listed"] == added_up(account)


def test_shards_that_no_pair_is_taken_from_leave_a_store_as_it_is(profile, tmp_path):
    """cc6m is the first pairs: what is fetched behind them, or deleted there, changes no run."""
    out = tmp_path / "out"
    source = profile.data.source.model_copy(
        update={"selection": {"cc3m": "keyed", "cc6m": "first"}}
    )
    profile = with_data(profile, source=source)
    build_external(profile, out)
    before = PairStore.open(out / "cc6m").content_hash

    write_tar(tmp_path / "cc6m/00001.tar", pairs([90, 91]))
    build_external(profile, fresh(out))
    store = PairStore.open(out / "cc6m")
    assert store.content_hash == before
    assert sum(shard.count for shard in store.shards) == len(store) == 8


def test_a_dataset_that_was_not_brought_is_left_out(profile, tmp_path, capsys, monkeypatch):
    """CC3M alone: its store is whole, the place of the other says why it is empty."""
    out = tmp_path / "out"
    shutil.rmtree(tmp_path / "cc6m")
    build_external(profile, out)
    assert len(PairStore.open(out / "cc3m")) == 4
    assert "cc6m is not there; the study goes without cc6m" in capsys.readouterr().err
    assert [path.name for path in (out / "cc6m").iterdir()] == ["absent.txt"]
    assert accounting_of(out)["used"] == {"cc3m": 4, "evaluation": 6}

    # An empty folder is a mistake, and so is none at all.
    (tmp_path / "cc6m").mkdir()
    with pytest.raises(StoreError, match=r"cc6m: no \.tar files"):
        build_external(profile, fresh(out))
    shutil.rmtree(tmp_path / "cc6m")
    shutil.rmtree(tmp_path / "cc3m")
    with pytest.raises(StoreError, match=r"cc3m: no \.tar files"):
        build_external(profile, fresh(out))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def test_fewer_pairs_than_wanted_are_a_larger_poisoned_share(profile, tmp_path, capsys):
    """As dead links leave them: 12 of 24 pairs, and the poisons as many as ever."""
    poisons = profile.data.poison.num_poisoned["cc6m"]
    wanted = with_data(profile, num_pairs={"cc3m": 4, "cc6m": 24})
    build_external(wanted, tmp_path / "out")
    said = f"cc6m: 12 of 24 pairs.* {poisons / 12:.3%} will be poisoned, not {poisons / 24:.3%}"
    assert re.search(said, capsys.readouterr().err)


def added_up(account: dict) -> int:
    apart = ("listed", "wanted", "shards", "faulty_shards")
    return sum(number for name, number in account.items() if name not in apart)


def test_every_row_is_counted_by_its_fate(profile, tmp_path):
    """14 listed; of these 1 damaged, 1 there twice, 12 distinct, 8 wanted."""
    members = [*pair(3), ("99.jpg", b"<html>"), ("99.txt", b"words")]
    write_tar(tmp_path / "cc6m" / "00001.tar", members)
    build_external(profile, tmp_path / "out")
    account = accounting_of(tmp_path / "out")["sources"]["cc6m"]
    assert account == {
        "listed": 14,
        "shards": {"read": 2},
        "faulty_shards": [],
        "not_an_image": 1,
        "duplicate": 1,
        "surplus": 4,
        "used": 8,
        "wanted": 8,
    }
    assert account["listed"] == added_up(account)


def test_the_first_rows_of_a_list_are_those_of_the_first_names_whatever_their_order(tmp_path):
    """img2dataset numbers shards and names by the list, and writes in the order of arrival."""
    write_tar(tmp_path / "in" / "00000.tar", pairs([5, 0, 3]))
    write_tar(tmp_path / "in" / "00001.tar", pairs([8, 7]))
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    first = index.index.take(select(index, 4, "first"))
    assert list(first.captions) == [f"caption {i}" for i in (0, 3, 5, 7)]
    assert len(select(index, 9, "first")) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.JPEG", None, r"5 usable .* of 5 \(allowed: 6\); 1 classes .* 'goldfish' with 1; not"),
        ("2.JPEG", png(5), r"7 usable images of 7 \(allowed: 6\)"),
        ("0.JPEG", b"<html>", r"5 usable images of 6 .* not used: \S*/0\.JPEG: not_an_image$"),
    ],
    ids=["one too few", "one too many", "one damaged"],
)
def test_every_class_has_its_number_of_evaluation_images(profile, tmp_path, name, content, message):
    path = tmp_path / "imagenet/n01443537" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        build_external(profile, tmp_path / "out")


def ten_shards(folder: Path) -> list[Path]:
    """Shards of three pairs each in the place of the fixture's single one."""
    shutil.rmtree(folder)
    paths = [folder / f"{i:05d}.tar" for i in range(10)]
    for i, path in enumerate(paths):
        write_tar(path, pairs(range(3 * i, 3 * i + 3)))
    return paths


@pytest.mark.parametrize("damage", ["deleted", "noise"])
def test_a_lost_shard_counts_as_many_pairs_as_the_others_hold(profile, tmp_path, damage, capsys):
    """Three of 30 pairs are lost: a tenth is allowed here, and anything less is refused."""
    for slot in ("cc3m", "cc6m"):
        path = ten_shards(tmp_path / slot)[3]
        path.unlink() if damage == "deleted" else path.write_bytes(bytes(range(256)) * 40)
    index = index_shards(tmp_path / "cc3m", tmp_path / "cache")
    assert index.listed == 27
    assert index.lost == 3

    out = tmp_path / "out"
    strict = profile.data.source.model_copy(update={"max_drop_fraction": 0.09})
    said = r"cc3m: 3 of 30 rows cannot be used .*lost_with_shards.*allowed: 9.00%.*"
    named = {
        "deleted": "missing shards: 1; faulty shards: none",
        "noise": r"missing shards: 0; faulty shards: \S*cc3m/00003\.tar: not_a_tar",
    }
    with pytest.raises(StoreError, match=said + named[damage]):
        build_external(with_data(profile, source=strict), out)

    build_external(profile, fresh(out))
    warned = r"repro: cc6m: without rows of \S*cc6m/00003\.tar: not_a_tar\n"
    assert bool(re.search(warned, capsys.readouterr().err)) == (damage == "noise")
    account = accounting_of(out)["sources"]["cc6m"]
    assert account["lost_with_shards"] == 3
    assert account["listed"] == added_up(account) == 30


def test_a_damaged_index_of_a_shard_is_named(tmp_path):
    (tmp_path / "shards").mkdir()
    ten_shards(tmp_path / "shards")
    index_shards(tmp_path / "shards", tmp_path / "cache")
    path = sorted((tmp_path / "cache").glob("*.npz"))[2]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StoreError, match=rf"{path}: damaged .*delete it and call again"):
        index_shards(tmp_path / "shards", tmp_path / "cache")
    path.unlink()
    assert index_shards(tmp_path / "shards", tmp_path / "cache").listed == 30


SYNSETS = ["n00000005", "n00000002", "n00000009"]
"""In the development kit's own order: numbers 1, 2, 3. Sorted they are labels 1, 0, 2."""
IMAGES = {
    "ILSVRC2012_val_00000001.JPEG": (b"one", 1),
    "ILSVRC2012_val_00000002.JPEG": (b"two", 2),
    "ILSVRC2012_val_00000003.JPEG": (b"three", 0),
}
"""File name to bytes and label."""


def write_kit(path: Path) -> None:
    """The development kit; its fourth synset is an inner node, and classes count from 1."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "children")
    synsets: list[tuple[int, str, str, str, int]] = [
        (number, name, "words", "", 0) for number, name in enumerate(SYNSETS, start=1)
    ]
    synsets.append((4, "n00000001", "all", "", 3))
    table = np.array(synsets, dtype=[(name, "O") for name in fields])
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": table})
    prefix = "ILSVRC2012_devkit_t12/data"
    members = [
        (f"{prefix}/meta.mat", matrix.getvalue()),
        (f"{prefix}/ILSVRC2012_validation_ground_truth.txt", b"1\n3\n2\n"),
    ]
    write_tar(path, members, mode="w:gz")


def write_official(folder):
    """The two archives."""
    write_kit(folder / DEVKIT)
    images = [(name, content) for name, (content, _) in IMAGES.items()]
    write_tar(folder / ARCHIVE, images)


def write_folders(folder, images=IMAGES):
    for name, (content, label) in images.items():
        of_class = folder / sorted(SYNSETS)[label]
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / name).write_bytes(content)


def read(folder):
    images = validation_images(folder, 3)
    return {image.path.name: (image.path.read_bytes(), image.label) for image in images}


def test_class_folders_and_official_archives_give_the_same_images(tmp_path, monkeypatch):
    """torchvision checks the MD5 of the true archives, and these are others."""
    write_folders(tmp_path / "folders")
    assert read(tmp_path / "folders") == IMAGES
    for label in range(11):
        of_class = tmp_path / "labels" / str(label)
        of_class.mkdir(parents=True)
        (of_class / "x.png").touch()
    for image in validation_images(tmp_path / "labels", 11):
        assert image.path.parent.name == str(image.label)

    write_official(tmp_path)
    with pytest.raises(SpecError, match=rf"{DEVKIT} is not present .* or is corrupted"):
        read(tmp_path)
    monkeypatch.setattr("torchvision.datasets.imagenet._verify_archive", lambda *_: None)
    (tmp_path / f".{UNPACKED}.partial").mkdir(exist_ok=True)  # left by a killed call
    assert read(tmp_path) == IMAGES
    (tmp_path / ARCHIVE).unlink()  # unpacked once, needed no more
    assert read(tmp_path) == IMAGES


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"no-folder: no such folder"):
        validation_images(tmp_path / "no-folder", len(SYNSETS))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["n01440764"],
            r"1 sub-folders, such as \['n01440764'\] \(allowed: one for each of the profile's 3",
        ),
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
