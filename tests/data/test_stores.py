"""Stores give back what was written; damage is named; caches are made once, within memory."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from repro.data import memory
from repro.data.cache import cached_array
from repro.data.images import encode_png
from repro.data.index import StoreError
from repro.data.shards import PairStore, write_store
from repro.data.stages import check_settings, data_settings, poison_settings, write_settings
from repro.ledger import LedgerError
from repro.spec import SpecError
from tests.support.evaluation import write_rows
from tests.support.poison import profile

CAPTIONS = ["a banana", "", "größe 🍌\n\ttab", "<script>alert(1)</script>"]


def pixels(i: int, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng(i)
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_store(
    folder: Path, captions: list[str] = CAPTIONS, labels: list[int] | None = None
) -> PairStore:
    images = [pixels(i) for i in range(len(captions))]
    labels = labels or [-1] * len(captions)
    write_rows(folder, zip(images, captions, labels, strict=True))
    return PairStore.open(folder)


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    return make_store(tmp_path / "store")


@pytest.mark.parametrize(("labels", "suffixes"), [(None, 2), ([3, 0, 7, 7], 3)])
def test_a_store_gives_back_what_was_written_as_webdataset_samples(tmp_path, labels, suffixes):
    store = make_store(tmp_path / "store", labels=labels)
    assert len(store) == 4
    assert list(store.captions) == CAPTIONS
    assert store.labels.tolist() == (labels or [-1] * 4)
    for row in range(4):
        assert np.array_equal(store.decode(row, 8), pixels(row))

    with tarfile.open(tmp_path / "store" / "00000.tar") as tar:
        names = tar.getnames()
        text_of_row_2 = tar.extractfile(names[2 * suffixes + 1])
        content = text_of_row_2.read().decode()
    assert content == CAPTIONS[2]
    parts = [name.partition(".") for name in names]
    endings = [ending for _, _, ending in parts]
    assert endings == ["png", "txt", "cls"][:suffixes] * 4
    assert len({stem for stem, _, _ in parts}) == 4


def test_keys_and_content_hash_depend_on_content_alone(tmp_path):
    one = make_store(tmp_path / "a", ["x", "y"])
    other = make_store(tmp_path / "b", ["x", "z", "w"])
    assert np.array_equal(one.keys[0], other.keys[0])
    assert not np.array_equal(one.keys[1], other.keys[1])

    same = make_store(tmp_path / "c", ["x", "y"])
    changed = make_store(tmp_path / "d", ["x", "z"])
    assert same.content_hash == one.content_hash
    assert changed.content_hash != one.content_hash


def test_an_overlay_reads_the_shards_of_another_store_even_through_a_link(tmp_path):
    """`..` in the paths of shards must not be followed from the target of the link."""
    store = make_store(tmp_path / "data" / "mini")
    target = tmp_path / "elsewhere" / "deep"
    target.mkdir(parents=True)
    (tmp_path / "poisoned").symlink_to(target)
    out = tmp_path / "poisoned" / "mini"
    out.mkdir()
    write_store(out, store.index, store.overlay_shards(out))

    shards = json.loads((out / "shards.json").read_text())
    assert shards[0]["path"] == "../../data/mini/00000.tar"
    assert np.array_equal(PairStore.open(out).decode(1, 8), pixels(1))


def test_a_missing_store_says_how_to_make_it(tmp_path):
    said = r"shards.json: no such file; make the store with `python -m repro data`"
    with pytest.raises(StoreError, match=said):
        PairStore.open(tmp_path)


@pytest.mark.parametrize("damage", ["zeroed", "cut", "other image"])
def test_a_changed_shard_is_named_with_its_row_and_never_cached(store, tmp_path, damage):
    path = store.folder / "00000.tar"
    content = path.read_bytes()
    begin = int(store.index.offset[2])
    size = int(store.index.size[2])
    end = begin + size
    other = encode_png(pixels(9))[:size].ljust(size, b"\0")
    damaged = {
        "zeroed": bytes(len(content)),
        "cut": content[: begin + 1],
        "other image": content[:begin] + other + content[end:],
    }
    path.write_bytes(damaged[damage])

    again = PairStore.open(store.folder)
    with pytest.raises(StoreError, match=r"00000\.tar: row 2 is not the image that was indexed"):
        again.decode(2, 8)
    cache_dir = tmp_path / "cache"
    with pytest.raises(StoreError, match=r"00000\.tar: .*row \d"):
        again.decoded(8, cache_dir, np.arange(4))
    assert not list(cache_dir.glob("*.npy"))


def test_an_index_of_objects_is_refused(store):
    arrays = store.index.arrays()
    arrays["caption_bytes"] = np.array([{"a": 1}], dtype=object)
    np.savez(store.folder / "index.npz", **arrays)
    with pytest.raises(StoreError, match="not a store"):
        PairStore.open(store.folder)


def cut_short(path: Path) -> None:
    """The file without its last bytes."""
    content = path.read_bytes()
    path.write_bytes(content[:-9])


def test_lists_of_rows_that_are_damaged_are_refused(store):
    path = store.folder / "rows.npz"
    np.savez(path, train=np.arange(4))
    assert store.rows("train").tolist() == [0, 1, 2, 3]
    cut_short(path)
    with pytest.raises(LedgerError, match=r"rows.npz: unreadable"):
        store.rows("train")


@pytest.mark.parametrize("name", ["index.npz", "shards.json"])
def test_a_torn_list_is_refused(store, name):
    cut_short(store.folder / name)
    with pytest.raises(StoreError, match="not a store"):
        PairStore.open(store.folder)


def test_a_forked_process_reads_at_the_same_time(store):
    expected = [pixels(row) for row in range(4)]

    def all_equal() -> bool:
        for number in range(400):
            row = number % 4
            if not np.array_equal(store.decode(row, 8), expected[row]):
                return False
        return True

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
    said = r"made with data.poison.trigger.patch_size: 12 \(specified now: 16\)"
    with pytest.raises(SpecError, match=said):
        check_settings(tmp_path, poison_settings(changed))
    assert data_settings(changed) == data_settings(made)  # the same clean pairs

    (tmp_path / "settings.json").unlink()
    with pytest.raises(SpecError, match=r"settings.json: unreadable .*make the store"):
        check_settings(tmp_path, poison_settings(made))


def test_decoded_pixels_are_made_once_in_the_order_of_the_rows_and_read_only(store, tmp_path):
    cache_dir = tmp_path / "cache"
    every = np.arange(4)
    first = store.decoded(4, cache_dir, every)
    (file,) = cache_dir.glob("*.npy")
    made = file.stat().st_mtime_ns
    again = store.decoded(4, cache_dir, every)
    assert file.stat().st_mtime_ns == made
    assert first.shape == (4, 4, 4, 3)
    assert not again.flags.writeable
    for row in range(4):
        assert np.array_equal(again[row], store.decode(row, 4))

    some = store.decoded(8, cache_dir, np.array([2, 0]))
    expected = np.stack([pixels(2), pixels(0)])
    assert np.array_equal(some, expected)


def six_rows() -> Iterator[np.ndarray]:
    """Four rows, then two; each holds its own number."""
    for begin, end in ((0, 4), (4, 6)):
        numbers = np.arange(begin, end, dtype=np.uint8)
        yield np.stack([numbers] * 3, axis=1)


def test_an_array_that_could_not_be_finished_is_made_again(tmp_path):
    path = tmp_path / "a.npy"

    def interrupted() -> Iterator[np.ndarray]:
        yield np.zeros((3, 3), np.uint8)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cached_array(path, (6, 3), interrupted)
    assert not list(tmp_path.glob("*.partial")), "it would keep a full disk full"
    array = cached_array(path, (6, 3), six_rows)
    assert array.tolist() == [[row] * 3 for row in range(6)]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_the_environment_lowers_the_memory_that_runs_count_on(monkeypatch):
    monkeypatch.setenv("REPRO_MEMORY_BYTES", "800")
    assert memory.machine_memory() == memory.at_most_limit(10**9) == 800
    assert memory.at_most_limit(700) == 700
    for text in ("0", "-1", "40 GB", ""):
        monkeypatch.setenv("REPRO_MEMORY_BYTES", text)
        said = rf"REPRO_MEMORY_BYTES: '{text}' \(allowed: a positive"
        with pytest.raises(ValueError, match=said):
            memory.machine_memory()


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("0::", "memory.max"),
        ("8:pids:/\n4:memory:", "memory/memory.limit_in_bytes"),
    ],
)
def test_a_jobs_limit_counts_levels_below(line: str, place: str, tmp_path: Path, monkeypatch):
    """A process in a step of a Slurm job, whose `--mem` is a limit of the job's group."""
    proc = tmp_path / "proc"
    groups = tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    folder = (groups / place).parent
    file = Path(place).name
    job = folder / "job_7"
    (job / "step_0/user").mkdir(parents=True)
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "GROUPS", groups)
    monkeypatch.delenv(memory.LIMIT, raising=False)
    machine = memory.machine_memory()  # no group tells a limit, nor is there a list of groups
    (proc / "self/cgroup").write_text(f"{line}/job_7/step_0/user\n")
    assert memory.machine_memory() == machine
    (job / "step_0/user" / file).write_text("max\n")
    assert memory.machine_memory() == machine
    (job / file).write_text("102400\n")
    assert memory.machine_memory() == 102400
