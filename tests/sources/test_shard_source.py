"""The data stage on the user's own shards and evaluation images: what is taken, what is refused,
and how it is counted.
"""

import json
import shutil
from pathlib import Path

import pytest

from repro.data.shards import PairStore, StoreError
from repro.profile import load_profile
from repro.sources.shards.build import build_external, select
from repro.sources.shards.tars import index_shards
from repro.spec import ShardSource
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


def added_up(account: dict) -> int:
    lost = sum(account["not_obtained"].values()) + sum(account["dropped"].values())
    return lost + account["duplicate"] + account["surplus"] + account["used"]


def test_accounting_reaches_from_the_url_list_to_the_rows_used(profile, tmp_path):
    """20 listed: 6 dead, 14 obtained; of these 1 damaged, 1 there twice, 12 distinct, 8 wanted."""
    write_tar(
        tmp_path / "cc6m" / "00001.tar", [*pair(3), ("99.jpg", b"<html>"), ("99.txt", b"words")]
    )
    stats = {"count": 20, "successes": 14, "failed_to_download": 5, "failed_to_resize": 1}
    (tmp_path / "cc6m" / "00001_stats.json").write_text(json.dumps(stats))
    build_external(profile, tmp_path / "out")
    account = json.loads((tmp_path / "out" / "accounting.json").read_text())["sources"]["cc6m"]
    assert account == {
        "listed": 20,
        "not_obtained": {"failed_to_download": 5, "failed_to_resize": 1},
        "obtained": 14,
        "decoded": 13,
        "dropped": {"not_an_image": 1},
        "duplicate": 1,
        "shards": {"read": 2},
        "surplus": 4,
        "used": 8,
        "wanted": 8,
    }
    assert account["listed"] == added_up(account)


def test_the_first_rows_of_a_list_are_those_of_the_first_names_whatever_their_order(tmp_path):
    """img2dataset numbers shards and names by the list, and writes in the order of arrival."""
    for shard, rows in enumerate(((5, 0, 3), (8, 7))):
        members = [member for row in rows for member in pair(row)]
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", members)
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    first = [f"caption {i}" for i in (0, 3, 5, 7)]
    assert list(index.take(select(index, 4, "first")).captions) == first
    assert len(select(index, 9, "first")) == 5


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


@pytest.mark.parametrize("damage", ["deleted", "noise"])
def test_a_lost_shard_counts_as_many_pairs_as_the_others_hold(profile, tmp_path, damage):
    """Three of 30 pairs are lost: a tenth is allowed here, and anything less is refused."""
    for slot in ("cc3m", "cc6m"):
        path = ten_shards(tmp_path / slot)[3]
        path.unlink() if damage == "deleted" else path.write_bytes(bytes(range(256)) * 40)
    index = index_shards(tmp_path / "cc3m", tmp_path / "cache")
    assert (index.listed, index.lost) == (27, 3)

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
    assert (index.listed, index.lost) == (28, 2)


def with_pairs(profile, **counts):
    data = profile.data.model_copy(update={"num_pairs": counts})
    return profile.model_copy(update={"data": data})


def test_fewer_pairs_than_specified_are_reported(profile, tmp_path, capsys):
    build_external(with_pairs(profile, cc3m=4, cc6m=20), tmp_path / "out")
    assert "repro: cc6m: 12 of 20 pairs, because cc6m holds no more" in capsys.readouterr().err
    assert not capsys.readouterr().err


def test_a_damaged_index_of_a_shard_is_named(tmp_path):
    (tmp_path / "shards").mkdir()
    ten_shards(tmp_path / "shards")
    index_shards(tmp_path / "shards", tmp_path / "cache")
    path = sorted((tmp_path / "cache").glob("*.npz"))[2]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StoreError, match=rf"{path}: damaged .*delete it and call again"):
        index_shards(tmp_path / "shards", tmp_path / "cache")
    path.unlink()
    assert len(index_shards(tmp_path / "shards", tmp_path / "cache").keys) == 30
