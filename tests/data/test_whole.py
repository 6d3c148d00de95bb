"""What is on disk is as it was written, or it is not used: stores, images, caches of arrays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from repro.data import cache, memory, shards
from repro.data.cache import cached_array, has_room
from repro.data.images import encode_png
from repro.data.index import StoreError
from repro.data.shards import OpenShard, PairStore, ShardWriter, write_store
from repro.data.sums import damaged, hash_folder, whole

COUNT = 4


def image(value: int) -> bytes:
    return encode_png(np.full((8, 8, 3), value, np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    """Four images of one grey each, in one shard."""
    folder = tmp_path / "store"
    folder.mkdir()
    writer = ShardWriter(folder)
    for row in range(COUNT):
        writer.add(image(10 * row), "png", f"grey {row}")
    write_store(folder, *writer.close())
    return PairStore.open(folder)


def flip(path: Path, place: int = -1) -> None:
    """Change one byte; size and times stay, as on a failing disk."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(store: PairStore) -> None:
    """Put a black image of the same size in the place of row 2, as a user's script might."""
    path = store.folder / "00000.tar"
    content = bytearray(path.read_bytes())
    offset, size = int(store.index.offset[2]), int(store.index.size[2])
    content[offset : offset + size] = image(0).ljust(size, b"\0")
    path.write_bytes(content)


def test_an_image_that_is_not_the_indexed_one_is_refused_and_the_others_are_read(
    store: PairStore,
) -> None:
    overwrite(store)
    again = PairStore.open(store.folder)
    assert again.decode(1, 8)[0, 0, 0] == 10
    with pytest.raises(StoreError, match=r"00000\.tar: row 2 is not the image that was indexed"):
        again.decode(2, 8)


def test_a_set_of_pixels_is_not_made_of_shards_that_changed(
    store: PairStore, tmp_path: Path
) -> None:
    overwrite(store)
    with pytest.raises(StoreError, match="row 2 is not the image"):
        PairStore.open(store.folder).decoded(8, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


@pytest.mark.parametrize("name", ["index.npz", "shards.json"])
def test_a_store_whose_lists_changed_is_not_opened(store: PairStore, name: str) -> None:
    path = store.folder / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StoreError, match=f"{name}: not as it was written; make the folder again"):
        PairStore.open(store.folder)


def test_a_store_without_hashes_says_so(store: PairStore) -> None:
    (store.folder / "SHA256SUMS").unlink()
    with pytest.raises(StoreError, match=r"SHA256SUMS: shards.json is not listed; make the folder"):
        PairStore.open(store.folder)


def test_the_hashes_are_those_of_sha256sum(store: PairStore) -> None:
    (store.folder / "rows.npz").write_bytes(b"rows")
    hash_folder(store.folder)
    check = ["sha256sum", "-c", "SHA256SUMS"]
    done = subprocess.run(check, cwd=store.folder, capture_output=True, text=True, check=True)
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == ["00000.tar", "index.npz", "rows.npz", "shards.json"]


def test_damaged_files_of_a_folder_are_named(store: PairStore, tmp_path: Path) -> None:
    hash_folder(tmp_path)
    assert damaged(tmp_path) == []
    assert whole(store.folder, "index.npz") == store.folder / "index.npz"
    (store.folder / "index.npz").write_bytes(b"")
    (store.folder / "00000.tar").unlink()
    assert damaged(tmp_path) == [store.folder / "00000.tar", store.folder / "index.npz"]
    assert damaged(tmp_path / "nothing") == [tmp_path / "nothing"]


class Counted:
    """Chunks of an array of six rows, and how often they were asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.times += 1
        for begin in (0, 4):
            rows = np.arange(begin, min(begin + 4, 6), dtype=np.uint16)
            yield np.broadcast_to(rows[:, None], (len(rows), 3))


def array(path: Path, chunks: Counted) -> np.ndarray:
    return cached_array(path, (6, 3), np.uint16, chunks)


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what this process knows of files."""
    return lambda: monkeypatch.setattr("repro.files._hashes", {})


def test_an_array_is_made_once_and_cannot_be_written(tmp_path: Path) -> None:
    chunks = Counted()
    for _ in range(2):
        found = array(tmp_path / "deep" / "a.npy", chunks)
        assert found.tolist() == [[row] * 3 for row in range(6)]
    assert chunks.times == 1
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "cut", "emptied", "no hash", "other hash"])
def test_a_damaged_array_is_made_again_with_a_line(
    damage: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    new_process: Callable[[], None],
) -> None:
    chunks, path = Counted(), tmp_path / "a.npy"
    array(path, chunks)
    new_process()
    match damage:
        case "flipped":
            flip(path)
        case "zeroed":
            content = path.read_bytes()
            path.write_bytes(content[:128] + bytes(len(content) - 128))
        case "cut":
            path.write_bytes(path.read_bytes()[:100])
        case "emptied":
            path.write_bytes(b"")
        case "no hash":
            (tmp_path / "a.npy.sha256").unlink()
        case "other hash":
            (tmp_path / "a.npy.sha256").write_text("0" * 64)

    assert array(path, chunks)[5].tolist() == [5, 5, 5]
    assert chunks.times == 2
    assert f"{path}: not as it was written; it is made again" in capsys.readouterr().err
    new_process()
    assert array(path, chunks)[5].tolist() == [5, 5, 5]
    assert chunks.times == 2


def test_pixels_that_are_black_in_the_cache_are_decoded_again(
    store: PairStore, tmp_path: Path, new_process: Callable[[], None]
) -> None:
    """What a power cut leaves of a file whose size reached the disk and whose bytes did not."""
    folder = tmp_path / "cache"
    right = np.array(store.decoded(8, folder))
    (path,) = folder.glob("*.npy")
    content = path.read_bytes()
    path.write_bytes(content[: -right.size] + bytes(right.size))
    new_process()
    assert np.array_equal(store.decoded(8, folder), right) and right.any()


def test_an_array_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield np.zeros((3, 3), np.uint16)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cached_array(tmp_path / "a.npy", (6, 3), np.uint16, chunks)
    assert array(tmp_path / "a.npy", Counted())[5].tolist() == [5, 5, 5]


def test_an_array_may_take_half_of_the_free_disk_and_an_eighth_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 bytes free, 6,400 of memory: 500 by disk; with 10,000 free 800 by memory."""
    pages = {"SC_PHYS_PAGES": 64, "SC_PAGE_SIZE": 100}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
    path = tmp_path / "none" / "a.npy"
    assert has_room(path, 500) and not has_room(path, 501)
    free.free = 10_000
    assert has_room(path, 800) and not has_room(path, 801)

    # What was begun counts as room, and what is there needs none.
    free.free = 600
    path.parent.mkdir()
    path.with_suffix(".partial").write_bytes(bytes(400))
    assert has_room(path, 500)
    path.touch()
    assert has_room(path, 10**9)


def test_the_larger_cleaning_set_of_the_paper_is_kept_where_the_machine_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 images of 224 px are 30 GB: half of 64 GB of free disk, an eighth of 256 GB."""
    size = 200_000 * 224**2 * 3
    pages = {"SC_PHYS_PAGES": 256, "SC_PAGE_SIZE": 10**9}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    free = SimpleNamespace(free=64 * 10**9)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
    assert has_room(tmp_path / "a.npy", size)

    free.free = 32 * 10**9
    assert not has_room(tmp_path / "a.npy", size)
    free.free, pages["SC_PHYS_PAGES"] = 64 * 10**9, 128
    assert not has_room(tmp_path / "a.npy", size)


def test_the_memory_that_arrays_and_steps_count_on_can_be_lowered_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_MEMORY_BYTES", "800")
    assert memory.machine_memory() == memory.at_most_limit(10**9) == 800
    assert memory.at_most_limit(700) == 700
    assert has_room(tmp_path / "a.npy", 100) and not has_room(tmp_path / "a.npy", 101)

    for text in ("0", "-1", "40 GB", ""):
        monkeypatch.setenv("REPRO_MEMORY_BYTES", text)
        with pytest.raises(
            ValueError, match=rf"REPRO_MEMORY_BYTES: '{text}' \(allowed: a positive"
        ):
            memory.machine_memory()


def test_shards_stay_open_up_to_a_number_and_not_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten shards of one image, four files at most: read twice in a row each, opened once."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 4)
    opened = []

    class Counting(OpenShard):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(shards, "OpenShard", Counting)
    folder = tmp_path / "store"
    folder.mkdir()
    writer = ShardWriter(folder)
    for row in range(10):
        writer.add(image(row), "png", f"grey {row}")
    write_store(folder, *writer.close())
    store = PairStore.open(folder)

    before = descriptors()
    for row in range(10):
        assert store.decode(row, 8)[0, 0, 0] == store.decode(row, 8)[0, 0, 0] == row
        assert descriptors() <= before + 4
    assert len(opened) == 10
    del store
    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_forked_process_reads_from_the_files_of_its_parent(store: PairStore) -> None:
    """Both read at once: `pread` has no place of its own, and closing in one leaves the other's."""
    store.decode(0, 8)
    child = os.fork()
    if child == 0:
        same = all(store.decode(i % COUNT, 8)[0, 0, 0] == 10 * (i % COUNT) for i in range(400))
        os._exit(0 if same else 1)
    values = [store.decode(i % COUNT, 8)[0, 0, 0] for i in range(400)]
    assert os.waitpid(child, 0)[1] == 0
    assert values == [10 * (i % COUNT) for i in range(400)]
    assert store.decode(3, 8)[0, 0, 0] == 30
