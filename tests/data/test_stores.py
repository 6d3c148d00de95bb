"""Stores give back what was written, by row; damage is named; caches are made once."""

import json
import os
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from repro.data import cache, memory, shards
from repro.data.cache import cached_array, has_room
from repro.data.images import encode_png
from repro.data.index import Captions, StoreError
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.stages import check_settings, data_settings, poison_settings, write_settings
from repro.spec import SpecError
from tests.support.poison import profile

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


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    return make_store(tmp_path / "store")


def test_a_store_gives_back_every_image_caption_and_label(tmp_path):
    store = make_store(tmp_path / "store", labels=[3, 0, 7, 7])
    assert len(store) == 4
    assert list(store.captions) == CAPTIONS
    assert store.labels.tolist() == [3, 0, 7, 7]
    assert all(np.array_equal(store.decode(i, 8), pixels(i)) for i in range(4))


@pytest.mark.parametrize(("labels", "suffixes"), [(None, 2), ([0, 1, 2, 3], 3)])
def test_shards_group_into_webdataset_samples_with_a_label_where_there_is_one(
    tmp_path, labels, suffixes
):
    store = make_store(tmp_path / "store", labels=labels)
    assert store.labels.tolist() == (labels or [-1] * 4)
    with tarfile.open(tmp_path / "store" / "00000.tar") as tar:
        names = tar.getnames()
        content = tar.extractfile(names[2 * suffixes + 1]).read().decode()
    parts = [name.partition(".") for name in names]
    assert [suffix for _, _, suffix in parts] == ["png", "txt", "cls"][:suffixes] * 4
    assert len({stem for stem, _, _ in parts}) == 4
    assert content == CAPTIONS[2]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in "ab":
        make_store(tmp_path / name)
    for file in ("00000.tar", "index.npz", "shards.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_keys_and_content_hash_depend_on_content_alone(tmp_path):
    one, other = make_store(tmp_path / "a", ["x", "y"]), make_store(tmp_path / "b", ["x", "z", "w"])
    assert np.array_equal(one.keys[0], other.keys[0])
    assert not np.array_equal(one.keys[1], other.keys[1])
    assert make_store(tmp_path / "c", ["x", "y"]).content_hash() == one.content_hash()
    assert make_store(tmp_path / "d", ["x", "z"]).content_hash() != one.content_hash()


def test_an_overlay_reads_the_shards_of_another_store_even_through_a_link(tmp_path):
    """`..` in the paths of shards must not be followed from the target of the link."""
    store = make_store(tmp_path / "data" / "mini")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "poisoned").symlink_to(tmp_path / "elsewhere" / "deep")
    out = tmp_path / "poisoned" / "mini"
    out.mkdir()
    write_store(out, store.index, store.overlay_shards(out))
    assert json.loads((out / "shards.json").read_text())[0]["path"] == "../../data/mini/00000.tar"
    assert np.array_equal(PairStore.open(out).decode(1, 8), pixels(1))


def test_captions_behave_like_a_list():
    captions = Captions.of(CAPTIONS)
    assert captions[-1] == CAPTIONS[-1]
    assert captions[1:3] == CAPTIONS[1:3]
    assert list(captions) == CAPTIONS
    with pytest.raises(IndexError):
        captions[4]
    assert list(Captions.of([])) == []


def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(
        StoreError, match=r"shards.json: no such file; make the store with `python -m repro data`"
    ):
        PairStore.open(tmp_path)


def zeroed(content: bytearray, store: PairStore) -> bytes:
    return bytes(len(content))


def cut(content: bytearray, store: PairStore) -> bytes:
    return content[: store.index.offset[2] + 1]


def other_image(content: bytearray, store: PairStore) -> bytes:
    offset, size = int(store.index.offset[2]), int(store.index.size[2])
    content[offset : offset + size] = encode_png(pixels(9))[:size].ljust(size, b"\0")
    return content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (zeroed, "row 2 is not the image that was indexed"),
        (cut, "row 2 is not the image that was indexed"),
        (other_image, "row 2 is not the image that was indexed"),
    ],
)
def test_a_changed_shard_is_named_with_its_row_and_never_cached(store, tmp_path, damage, message):
    path = store.folder / "00000.tar"
    path.write_bytes(damage(bytearray(path.read_bytes()), store))
    again = PairStore.open(store.folder)
    with pytest.raises(StoreError, match=rf"00000\.tar: {message}"):
        again.decode(2, 8)
    with pytest.raises(StoreError, match=r"00000\.tar: .*row \d"):
        again.decoded(8, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_bytes_that_were_no_image_when_indexed_are_named_with_shard_and_row(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add(b"<html>", "png", "a page")
    write_store(tmp_path, *writer.close())
    with pytest.raises(StoreError, match=r"00000\.tar: row 0: not_an_image"):
        PairStore.open(tmp_path).decode(0, 8)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": np.zeros(3, np.int64)}, "unequal length"),
        ({"caption_bytes": np.array([{"a": 1}], dtype=object)}, "not a store"),
    ],
)
def test_an_inconsistent_index_is_refused(store, columns, message):
    np.savez(store.folder / "index.npz", **(store.index.arrays() | columns))
    with pytest.raises(StoreError, match=message):
        PairStore.open(store.folder)


def test_lists_of_rows_that_are_damaged_or_do_not_fit_are_refused(store):
    path = store.folder / "rows.npz"
    np.savez(path, train=np.arange(4), poisoned=np.array([1, 4]))
    assert store.rows("train").tolist() == [0, 1, 2, 3]
    for name, message in {"poisoned": "rows beyond 4", "100k": "unreadable"}.items():
        with pytest.raises(StoreError, match=rf"rows.npz: .*{message}"):
            store.rows(name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"rows.npz: train: unreadable"):
        store.rows("train")


@pytest.mark.parametrize("name", ["index.npz", "shards.json"])
def test_a_torn_list_is_refused(store, name):
    path = store.folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match="not a store"):
        PairStore.open(store.folder)


def test_every_shard_stays_open_where_the_system_lets_it(tmp_path, monkeypatch):
    """A hundred shards of one image, read in turn twice: each is opened once, for the store raises
    the soft limit of open files; under a low hard limit the oldest are closed.
    """
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 60, hard))
    try:
        store = make_store(tmp_path / "store", [f"picture {i}" for i in range(100)])
        for limit, left_open in ((hard, 100), (12, 4)):
            monkeypatch.setattr(shards, "_most_open_files", lambda limit=limit: limit)
            if limit == hard:
                monkeypatch.undo()
            store = PairStore.open(store.folder)
            for row in [*range(100)] * 2:
                assert np.array_equal(store.decode(row, 8), pixels(row))
            assert store._open.cache_info().currsize == left_open
            assert len(os.listdir("/proc/self/fd")) == before + left_open
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    del store
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_process_reads_from_the_files_of_its_parent(store):
    """Both read at once: `pread` has no position, and a close in one leaves the other's open."""

    def all_equal() -> bool:
        return all(np.array_equal(store.decode(i % 4, 8), pixels(i % 4)) for i in range(400))

    store.decode(0, 8)
    child = os.fork()
    if child == 0:
        os._exit(0 if all_equal() else 1)
    assert all_equal()
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(store.decode(3, 8), pixels(3))


def test_a_store_of_other_settings_is_refused_with_the_first_that_differs(tmp_path):
    made = profile()
    write_settings(tmp_path, poison_settings(made))
    check_settings(tmp_path, poison_settings(made))
    check_settings(tmp_path, poison_settings(profile(data__stand_in="other words")))

    changed = profile(data__poison__trigger__patch_size=16)
    with pytest.raises(
        SpecError, match=r"made with data.poison.trigger.patch_size: 12 \(specified now: 16\)"
    ):
        check_settings(tmp_path, poison_settings(changed))
    assert data_settings(changed) == data_settings(made)  # the same clean pairs

    (tmp_path / "settings.json").unlink()
    with pytest.raises(SpecError, match=r"settings.json: unreadable .*make the store"):
        check_settings(tmp_path, poison_settings(made))


def test_decoded_pixels_are_made_once_in_the_order_of_the_rows_and_read_only(store, tmp_path):
    first = store.decoded(4, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    made = file.stat().st_mtime_ns
    again = store.decoded(4, tmp_path / "cache")
    assert file.stat().st_mtime_ns == made
    assert first.shape == (4, 4, 4, 3)
    assert not again.flags.writeable
    assert all(np.array_equal(again[i], store.decode(i, 4)) for i in range(4))
    some = store.decoded(8, tmp_path / "cache", rows=np.array([2, 0]))
    assert np.array_equal(some, np.stack([pixels(2), pixels(0)]))


def six_rows() -> Iterator[np.ndarray]:
    for begin in (0, 4):
        rows = np.arange(begin, min(begin + 4, 6), dtype=np.uint16)
        yield np.broadcast_to(rows[:, None], (len(rows), 3))


def test_an_array_that_could_not_be_finished_is_made_again(tmp_path):
    def interrupted() -> Iterator[np.ndarray]:
        yield np.zeros((3, 3), np.uint16)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cached_array(tmp_path / "a.npy", (6, 3), np.uint16, interrupted)
    array = cached_array(tmp_path / "a.npy", (6, 3), np.uint16, six_rows)
    assert array.tolist() == [[row] * 3 for row in range(6)]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match=r"a.npy: uint16 of shape \(6, 3\) .*delete the file"):
        cached_array(tmp_path / "a.npy", (5, 3), np.uint16, six_rows)


def test_an_array_may_take_half_of_the_free_disk_and_an_eighth_of_the_memory(tmp_path, monkeypatch):
    """1,000 bytes free, 6,400 of memory: 500 by disk; with 10,000 free 800 by memory."""
    pages = {"SC_PHYS_PAGES": 64, "SC_PAGE_SIZE": 100}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
    path = tmp_path / "none" / "a.npy"
    assert has_room(path, 500) and not has_room(path, 501)
    free.free = 10_000
    assert has_room(path, 800) and not has_room(path, 801)

    # An array that exists needs none.
    path.parent.mkdir()
    path.touch()
    assert has_room(path, 10**9)


def test_the_environment_lowers_the_memory_that_runs_count_on(monkeypatch):
    monkeypatch.setenv("REPRO_MEMORY_BYTES", "800")
    assert memory.machine_memory() == memory.at_most_limit(10**9) == 800
    assert memory.at_most_limit(700) == 700
    for text in ("0", "-1", "40 GB", ""):
        monkeypatch.setenv("REPRO_MEMORY_BYTES", text)
        with pytest.raises(
            ValueError, match=rf"REPRO_MEMORY_BYTES: '{text}' \(allowed: a positive"
        ):
            memory.machine_memory()
