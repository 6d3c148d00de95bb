"""Stores: what is written is what is read, by row, on any disk, and damage is named."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from repro.data import shards
from repro.data.images import encode_png
from repro.data.index import Captions, StoreError
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.sums import write_sums
from repro.files import file_sha256

CAPTIONS = ["a banana", "", "größe 🍌\n\ttab", "<script>alert(1)</script>"]


def pixels(i: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_store(
    folder: Path, captions: list[str] = CAPTIONS, labels: list[int] | None = None
) -> PairStore:
    folder.mkdir(parents=True)
    writer = ShardWriter(folder)
    for i, caption in enumerate(captions):
        writer.add(encode_png(pixels(i)), "png", caption, labels[i] if labels else -1)
    write_store(folder, *writer.close())
    return PairStore.open(folder)


def forge(path: Path, **columns: np.ndarray) -> None:
    """Another index, with its hash put right: what is left to find must be found in it."""
    np.savez(path, **columns)
    write_sums(path.parent, {path.name: file_sha256(path)})


def test_a_store_gives_back_every_image_caption_and_label(tmp_path):
    store = make_store(tmp_path / "store", labels=[3, 0, 7, 7])
    assert len(store) == 4
    assert list(store.captions) == CAPTIONS
    assert store.labels.tolist() == [3, 0, 7, 7]
    for i in range(4):
        assert np.array_equal(store.decode(i, 8), pixels(i))


def test_rows_without_label_are_minus_one_and_write_no_cls_member(tmp_path):
    store = make_store(tmp_path / "store")
    assert store.labels.tolist() == [-1] * 4
    with tarfile.open(tmp_path / "store" / "00000.tar") as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"png", "txt"}


def test_shards_group_into_webdataset_samples(tmp_path):
    make_store(tmp_path / "store", labels=[0, 1, 2, 3])
    with tarfile.open(tmp_path / "store" / "00000.tar") as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names] == ["png", "txt", "cls"] * 4
        assert len({name.partition(".")[0] for name in names}) == 4
        assert tar.extractfile(names[7]).read().decode() == CAPTIONS[2]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in "ab":
        make_store(tmp_path / name)
    for file in ("00000.tar", "index.npz", "shards.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_shard_is_closed_when_it_is_full_and_rows_are_found_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    store = make_store(tmp_path / "store")
    assert [shard.path for shard in store.shards] == [f"0000{i}.tar" for i in range(4)]
    assert all(np.array_equal(store.decode(i, 8), pixels(i)) for i in range(4))


def test_the_key_of_a_pair_depends_on_image_and_caption_alone(tmp_path):
    one = make_store(tmp_path / "a", ["x", "y"])
    other = make_store(tmp_path / "b", ["x", "z", "w"])
    assert np.array_equal(one.keys[0], other.keys[0])
    assert not np.array_equal(one.keys[1], other.keys[1])


def test_the_content_hash_follows_the_content_and_not_the_place(tmp_path):
    original = make_store(tmp_path / "a")
    assert make_store(tmp_path / "b").content_hash() == original.content_hash()
    assert (
        make_store(tmp_path / "c", [*CAPTIONS[:3], "other"]).content_hash()
        != original.content_hash()
    )


def test_decoded_pixels_are_made_once_and_read_only(tmp_path):
    store = make_store(tmp_path / "store")
    first = store.decoded(4, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    made = file.stat().st_mtime_ns
    again = store.decoded(4, tmp_path / "cache")
    assert file.stat().st_mtime_ns == made
    assert first.shape == (4, 4, 4, 3)
    assert not again.flags.writeable
    assert all(np.array_equal(again[i], store.decode(i, 4)) for i in range(4))


def test_decoded_pixels_of_some_rows_come_in_their_order(tmp_path):
    store = make_store(tmp_path / "store")
    some = store.decoded(8, tmp_path / "cache", rows=np.array([2, 0]))
    assert np.array_equal(some, np.stack([pixels(2), pixels(0)]))


def test_decoded_pixels_are_cached_apart_by_size_geometry_and_content(tmp_path):
    store, other = make_store(tmp_path / "a"), make_store(tmp_path / "b", [*CAPTIONS[:3], "other"])
    store.decoded(4, tmp_path / "cache")
    store.decoded(8, tmp_path / "cache")
    store.decoded(4, tmp_path / "cache", "squash")
    other.decoded(4, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


@pytest.mark.faults(1)
def test_a_killed_cache_build_is_begun_anew(tmp_path):
    store = make_store(tmp_path / "store")
    store.decoded(8, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    file.with_suffix(".partial").write_bytes(file.read_bytes()[:200])
    file.unlink()
    assert np.array_equal(store.decoded(8, tmp_path / "cache")[3], pixels(3))


@pytest.mark.faults(4)
def test_an_overlay_reads_the_shards_of_another_store_even_through_a_link(tmp_path):
    """`poisoned` is a link to another disk: `..` of the overlay's shard paths must not be followed
    from there.
    """
    store = make_store(tmp_path / "data" / "mini")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "poisoned").symlink_to(tmp_path / "elsewhere" / "deep")
    out = tmp_path / "poisoned" / "mini"
    out.mkdir()
    write_store(out, store.index, store.overlay_shards(out))
    assert json.loads((out / "shards.json").read_text())[0]["path"] == "../../data/mini/00000.tar"
    assert np.array_equal(PairStore.open(out).decode(1, 8), pixels(1))


@pytest.mark.faults(9)
def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(
        StoreError, match=r"shards.json: no such file; make the store with `python -m repro data`"
    ):
        PairStore.open(tmp_path)


@pytest.mark.faults(9)
def test_a_shard_cut_short_is_named_with_its_row(tmp_path):
    store = make_store(tmp_path / "store")
    path = tmp_path / "store" / "00000.tar"
    path.write_bytes(path.read_bytes()[: store.index.offset[3] + 1])
    with pytest.raises(StoreError, match=r"00000.tar: ends inside row 3"):
        store.image_bytes(3)


@pytest.mark.faults(9)
def test_a_shard_changed_after_indexing_is_named_with_its_row(tmp_path):
    store = make_store(tmp_path / "store")
    path = tmp_path / "store" / "00000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StoreError, match="row 2 is not the image that was indexed"):
        store.decode(2, 8)


@pytest.mark.faults(33)
def test_an_index_with_pickled_objects_is_refused(tmp_path):
    make_store(tmp_path / "store")
    path = tmp_path / "store" / "index.npz"
    forge(path, caption_bytes=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoreError, match="not a store"):
        PairStore.open(tmp_path / "store")


@pytest.mark.faults(9)
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", np.zeros(3, np.int64), "unequal length"),
        ("shard", np.full(4, 5, np.int32), "shard number 5"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, column, value, message):
    store = make_store(tmp_path / "store")
    forge(tmp_path / "store" / "index.npz", **(store.index.arrays() | {column: value}))
    with pytest.raises(StoreError, match=message):
        PairStore.open(tmp_path / "store")


def test_captions_behave_like_a_list():
    captions = Captions.of(CAPTIONS)
    assert captions[-1] == CAPTIONS[-1]
    assert captions[1:3] == CAPTIONS[1:3]
    assert list(captions) == CAPTIONS
    with pytest.raises(IndexError):
        captions[4]
    assert list(Captions.of([])) == []
