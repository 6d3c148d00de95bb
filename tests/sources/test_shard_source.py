"""The data stage on the user's own shards and evaluation images: what is taken, what is refused,
and how it is counted.
"""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repro.data.shards import PairStore, StoreError
from repro.profile import load_profile
from repro.sources.shards.build import build_external, select
from repro.sources.shards.imagenet import labelled_images
from repro.sources.shards.tars import index_shards
from repro.spec import ShardSource, SpecError
from tests.support.tars import pair, png, write_tar

SPECS = Path(__file__).parents[2] / "specs"

CLASSES = ["tench", "goldfish", "banana"]


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Smoke over 12 pairs in shards and three ImageNet-like classes of two images each."""
    for slot in ("cc3m", "cc6m"):
        write_tar(tmp_path / slot / "00000.tar", [member for i in range(12) for member in pair(i)])
    for label, synset in enumerate(("n01440764", "n01443537", "n07753592")):
        (tmp_path / "imagenet" / synset).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "imagenet" / synset / f"{i}.JPEG").write_bytes(png(100 + 2 * label + i))
    (tmp_path / "specs" / "classnames").mkdir(parents=True)
    (tmp_path / "specs" / "classnames" / "imagenet.txt").write_text("\n".join(CLASSES) + "\n")
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
    data = smoke.data.model_copy(update={"source": source, "num_pairs": {"cc3m": 4, "cc6m": 8}})
    return smoke.model_copy(
        update={
            "data": data,
            "evaluate": smoke.evaluate.model_copy(update={"classnames": "imagenet"}),
        }
    )


def test_the_data_stage_lays_stores_over_the_users_shards(profile, tmp_path):
    build_external(profile, tmp_path / "out")
    cc3m, cc6m, evaluation = (
        PairStore.open(tmp_path / "out" / name) for name in ("cc3m", "cc6m", "evaluation")
    )
    assert (len(cc3m), len(cc6m)) == (4, 8)
    assert set(cc3m.captions) < set(cc6m.captions)
    assert not list((tmp_path / "out" / "cc6m").glob("*.tar"))
    assert cc6m.image_bytes(0) == png(int(cc6m.captions[0].removeprefix("caption ")))
    assert evaluation.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [evaluation.image_bytes(i) for i in range(6)] == [png(100 + i) for i in range(6)]
    accounting = json.loads((tmp_path / "out" / "accounting.json").read_text())
    assert accounting["used"] == {"cc3m": 4, "cc6m": 8, "evaluation": 6}
    assert accounting["sources"]["evaluation"]["images_per_class"] == 2
    for account in accounting["sources"].values():
        assert account["listed"] == added_up(account)


def official_tar(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    write_tar(
        folder / "ILSVRC2012_img_val.tar", [(name, data) for name, (data, _) in images.items()]
    )
    (folder / "labels.csv").write_text(
        "image,label\n" + "".join(f"{name},{label}\n" for name, (_, label) in images.items())
    )


def webdataset(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    labels = [(name.replace("JPEG", "cls"), b"%d" % label) for name, (_, label) in images.items()]
    write_tar(
        folder / "val-0.tar", [*((name, data) for name, (data, _) in images.items()), *labels]
    )


def parquet(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data, labels = zip(*images.values(), strict=True)
    pq.write_table(
        pa.table({"image": [{"bytes": content} for content in data], "label": labels}),
        folder / "val.parquet",
    )


@pytest.mark.parametrize("form", [official_tar, webdataset, parquet])
def test_the_data_stage_takes_every_form_of_the_evaluation_images(profile, tmp_path, form):
    shutil.rmtree(tmp_path / "imagenet")
    (tmp_path / "imagenet").mkdir()
    form(tmp_path / "imagenet", {f"{i}.JPEG": (png(i), i % 3) for i in range(6)})
    build_external(profile, tmp_path / "out")
    evaluation = PairStore.open(tmp_path / "out" / "evaluation")
    assert {evaluation.image_bytes(i): int(evaluation.labels[i]) for i in range(6)} == {
        png(i): i % 3 for i in range(6)
    }


def added_up(account: dict) -> int:
    lost = sum(account["not_obtained"].values()) + sum(account["dropped"].values())
    return lost + account["duplicate"] + account["surplus"] + account["used"]


@pytest.mark.faults(9, 10)
def test_accounting_reaches_from_the_url_list_to_the_rows_used(profile, tmp_path):
    """20 listed: 1 no URL, 5 dead, 14 obtained; of these 1 damaged, 1 there twice, 12 distinct, 8
    wanted.
    """
    write_tar(
        tmp_path / "cc6m" / "pass-1" / "00000.tar",
        [*pair(3), ("99.jpg", b"<html>"), ("99.txt", b"words")],
    )
    fetched = {
        "listed": 20,
        "refused": {"scheme_not_http": 1},
        "failed": {"http_404": 5},
        "obtained": 14,
        "passes": 2,
    }
    (tmp_path / "cc6m" / "accounting.json").write_text(json.dumps(fetched))
    build_external(profile, tmp_path / "out")
    account = json.loads((tmp_path / "out" / "accounting.json").read_text())["sources"]["cc6m"]
    assert account == {
        "listed": 20,
        "not_obtained": {"scheme_not_http": 1, "http_404": 5},
        "obtained": 14,
        "decoded": 13,
        "dropped": {"not_an_image": 1},
        "duplicate": 1,
        "surplus": 4,
        "used": 8,
        "wanted": 8,
        "shards": {"read": 2},
    }
    assert account["listed"] == added_up(account)


def test_the_first_rows_of_a_list_are_those_of_its_lines_whatever_shard_holds_them(tmp_path):
    """Lines 5, 0 and 4 lie in the first shard, 1 and 3 in the second; three are wanted."""
    for shard, lines in enumerate(((5, 0, 4), (1, 3))):
        rows = [
            [*pair(line)[:2], (f"{line:05d}.json", json.dumps({"list_row": line}).encode())]
            for line in lines
        ]
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", [member for row in rows for member in row])
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    assert list(index.take(select(index, 3, "first")).captions) == [
        "caption 0",
        "caption 1",
        "caption 3",
    ]
    assert len(select(index, 9, "first")) == 5


def test_without_line_numbers_the_first_rows_are_those_of_the_first_shards(tmp_path):
    for shard, rows in enumerate(((5, 0), (1, 3))):
        write_tar(
            tmp_path / "in" / f"{shard:05d}.tar", [member for row in rows for member in pair(row)]
        )
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    assert list(index.take(select(index, 3, "first")).captions) == [
        "caption 5",
        "caption 0",
        "caption 1",
    ]


@pytest.mark.faults(9)
def test_too_many_unusable_rows_stop_the_stage(profile, tmp_path):
    """2 of 14 rows are more than a tenth."""
    bad = [("98.jpg", b"<html>"), ("98.txt", b"a"), ("99.jpg", b""), ("99.txt", b"b")]
    write_tar(tmp_path / "cc3m" / "00001.tar", bad)
    with pytest.raises(StoreError, match=r"cc3m: 2 of 14 rows cannot be used .*allowed: 10.00%"):
        build_external(profile, tmp_path / "out")


@pytest.mark.faults(15)
def test_a_class_without_images_stops_the_stage(profile, tmp_path):
    for path in (tmp_path / "imagenet" / "n01443537").iterdir():
        path.unlink()
    with pytest.raises(SpecError, match=r"no image of 1 classes, the first 1 "):
        build_external(profile, tmp_path / "out")


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "0.JPEG").unlink(),
            r"5 usable .* of 5 \(allowed: 6\); 1 classes .* 'goldfish' with 1; not used: none",
        ),
        (
            lambda folder: (folder / "2.JPEG").write_bytes(png(5)),
            r"7 usable images of 7 \(allowed: 6\)",
        ),
        (
            lambda folder: (folder / "0.JPEG").write_bytes(b"<html>"),
            r"5 usable images of 6 .* not used: {'not_an_image': 1}",
        ),
    ],
    ids=["one too few", "one too many", "one damaged"],
)
def test_every_class_must_have_its_number_of_evaluation_images(profile, tmp_path, change, message):
    change(tmp_path / "imagenet" / "n01443537")
    with pytest.raises(StoreError, match=message):
        build_external(profile, tmp_path / "out")


def test_class_folders_are_read_by_synset_or_by_label(tmp_path):
    for kind, names in {"synset": ["n02", "n10", "n01"], "label": ["0", "1", "2"]}.items():
        for name in names:
            full = name.replace("n", "n000000") if kind == "synset" else name
            (tmp_path / kind / full).mkdir(parents=True)
            (tmp_path / kind / full / "x.JPEG").touch()
    assert [
        (path.parent.name, label) for path, label in labelled_images(tmp_path / "synset", 3)
    ] == [
        ("n00000001", 0),
        ("n00000002", 1),
        ("n00000010", 2),
    ]
    assert [
        (path.parent.name, label) for path, label in labelled_images(tmp_path / "label", 3)
    ] == [("0", 0), ("1", 1), ("2", 2)]


@pytest.mark.faults(15)
def test_ten_labels_sort_by_number(tmp_path):
    for label in range(11):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "x.JPEG").touch()
    assert [label for _, label in labelled_images(tmp_path, 11)] == list(range(11))


def test_a_flat_folder_is_read_by_its_labels_file(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nb.JPEG,1\na.JPEG,0\n")
    assert list(labelled_images(tmp_path, 2)) == [
        (tmp_path / "b.JPEG", 1),
        (tmp_path / "a.JPEG", 0),
    ]


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.JPEG,2", r"labels.csv: line 2: label: '2' \(allowed: 0 to 1\)"),
        ("a.JPEG,banana", "label: 'banana'"),
        ("../a.JPEG,0", r"image: '../a.JPEG' \(allowed: a path inside"),
        (",0", "image: ''"),
    ],
)
def test_bad_lines_of_a_labels_file_are_named(tmp_path, line, message):
    (tmp_path / "labels.csv").write_text(f"image,label\n{line}\n")
    with pytest.raises(SpecError, match=message):
        list(labelled_images(tmp_path, 2))


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n01440764"], "has 1 sub-folders and no labels.csv"),
        (["cats", "dogs"], r"sub-folder 'cats' ... \(allowed: synsets"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(SpecError, match=message):
        list(labelled_images(tmp_path, 2))


def ten_shards(folder: Path) -> list[Path]:
    """Shards of three pairs each in the place of the fixture's single one."""
    shutil.rmtree(folder)
    return [
        write_tar(
            folder / f"{shard:05d}.tar",
            [member for i in range(3 * shard, 3 * shard + 3) for member in pair(i)],
        )
        for shard in range(10)
    ]


def lose(paths: list[Path], damage: str) -> None:
    """Do to the fourth shard what disks and users do."""
    path = paths[3]
    match damage:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(bytes(range(256)) * 40)
        case "packed":
            path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.faults(9)
@pytest.mark.parametrize("damage", ["deleted", "emptied", "noise", "packed"])
def test_a_lost_shard_counts_as_many_pairs_as_the_others_hold(profile, tmp_path, damage):
    """Three of 30 pairs are lost: a tenth is allowed here, and anything less is refused."""
    for slot in ("cc3m", "cc6m"):
        lose(ten_shards(tmp_path / slot), damage)
    index = index_shards(tmp_path / "cc3m", tmp_path / "cache")
    assert (index.accounting.listed, index.accounting.lost) == (27, 3)

    strict = profile.data.source.model_copy(update={"max_drop_fraction": 0.09})
    data = profile.data.model_copy(update={"source": strict})
    with pytest.raises(
        StoreError, match=r"cc3m: 3 of 30 rows cannot be used .*lost_with_shards.*allowed: 9.00%"
    ):
        build_external(profile.model_copy(update={"data": data}), tmp_path / "out")

    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    build_external(profile, tmp_path / "out")
    accounts = json.loads((tmp_path / "out" / "accounting.json").read_text())["sources"]
    assert accounts["cc6m"]["not_obtained"] == {"lost_with_shards": 3}
    assert accounts["cc6m"]["listed"] == added_up(accounts["cc6m"]) == 30


def test_a_cut_shard_counts_what_it_lacks(profile, tmp_path):
    """Cut behind its first pair, it lacks two of the three that the others hold."""
    paths = ten_shards(tmp_path / "cc3m")
    content = paths[5].read_bytes()
    paths[5].write_bytes(content[: content.index(b"00016.jpg")])
    index = index_shards(tmp_path / "cc3m", tmp_path / "cache")
    assert (index.accounting.listed, index.accounting.lost) == (28, 2)


def test_what_the_network_did_not_give_is_no_loss(profile, tmp_path):
    """The list of the download knows what was obtained: nothing, beyond what is there, is lost."""
    ten_shards(tmp_path / "cc3m")[4].unlink()
    told = {"obtained": 27, "refused": {}, "failed": {"timeout": 3}}
    (tmp_path / "cc3m" / "accounting.json").write_text(json.dumps(told))
    build_external(profile, tmp_path / "out")
    account = json.loads((tmp_path / "out" / "accounting.json").read_text())["sources"]["cc3m"]
    assert account["not_obtained"] == {"timeout": 3}


def with_pairs(profile, **counts):
    data = profile.data.model_copy(update={"num_pairs": counts})
    return profile.model_copy(update={"data": data})


def test_fewer_pairs_than_asked_for_are_told(profile, tmp_path, capsys):
    build_external(with_pairs(profile, cc3m=4, cc6m=20), tmp_path / "out")
    assert "repro: cc6m: 12 of 20 pairs, for cc6m holds no more" in capsys.readouterr().err
    assert not capsys.readouterr().err


@pytest.mark.faults(9)
def test_two_slots_that_should_differ_and_do_not_are_refused(profile, tmp_path):
    """Twelve pairs are there: who asks for 15 and 20 gets the same twelve twice."""
    with pytest.raises(
        StoreError, match=r"cc3m and cc6m hold the same 12 pairs .asked for: 15 of cc3m and 20 of"
    ):
        build_external(with_pairs(profile, cc3m=15, cc6m=20), tmp_path / "out")


@pytest.mark.faults(9)
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "foreign"])
def test_a_damaged_index_of_a_shard_is_made_again_with_a_line(tmp_path, capsys, damage):
    folder, cache = tmp_path / "shards", tmp_path / "cache"
    folder.mkdir()
    ten_shards(folder)
    whole = index_shards(folder, cache)
    path = sorted(cache.glob("*.npz"))[2]
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            path.write_bytes(content[:300])
        case "emptied":
            path.write_bytes(b"")
        case "flipped":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "foreign":
            np.savez(path, other=np.arange(3))

    again = index_shards(folder, cache)
    assert f"{path}: damaged" in capsys.readouterr().err
    assert np.array_equal(again.keys, whole.keys) and again.shards == whole.shards
    assert list(again.take(np.arange(30)).captions) == [f"caption {i}" for i in range(30)]
    index_shards(folder, cache)
    assert not capsys.readouterr().err
