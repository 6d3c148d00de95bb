"""Shards that others wrote: every row used or counted, nothing written, no process left."""

import errno
import gzip
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import repro
from repro.data.index import Index, StoreError
from repro.data.shards import PairStore
from repro.sources.shards import tars
from repro.sources.shards.tars import ShardIndex, index_shards
from tests.support.processes import processes, wait_for
from tests.support.tars import pair, png, write_tar


def read_shards(folder: Path) -> tuple[Index, ShardIndex]:
    """All distinct rows, as the stage reads them, the cache beside `folder`."""
    found = index_shards(folder, folder.with_name(f"{folder.name} cache"))
    return found.index.take(found.rows), found


def test_rows_of_all_shards_are_indexed_in_place(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0) + pair(1))
    write_tar(tmp_path / "00001.tar", pair(2))
    index, found = read_shards(tmp_path)
    store = PairStore(tmp_path, index, found.files)
    assert list(store.captions) == ["caption 0", "caption 1", "caption 2"]
    for row in range(3):
        assert store.image_bytes(row) == png(row)
    assert [shard.count for shard in found.files] == [2, 1]
    assert found.listed == 3
    assert len(found.rows) == 3
    assert not found.dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", "00001.tar"]


def header(size: bytes, kind: bytes = tarfile.REGTYPE, name: str = "0.jpg") -> bytes:
    """The block before a member, with the field of its size as it is given."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_hostile_headers_lose_their_shard_alone(tmp_path):
    """A negative size, and a long row of headers that extend each other, first or after a pair."""
    whole = write_tar(tmp_path / "00000.tar", pair(0)).read_bytes()
    negative = header((2**96 - 512).to_bytes(12, "big"))
    deep = header(b"0", tarfile.XHDTYPE) * 2000
    hostile = {
        "00001.tar": negative,
        "00002.tar": deep,
        "00003.tar": whole.rstrip(b"\0") + deep,
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content + bytes(1024))
    index, found = read_shards(tmp_path)
    assert list(index.captions) == ["caption 0"]
    assert found.shards["read"] == 4


@pytest.mark.parametrize("size", [-512, -100])
def test_a_negative_size_neither_holds_up_nor_is_read(tmp_path, size):
    """By the first, the next header is the member's own, over and over."""
    caption = header(b"5", name="0.txt") + b"words".ljust(512, b"\0")
    path = tmp_path / "0.tar"
    path.write_bytes(caption + header((2**96 + size).to_bytes(12, "big")) + bytes(1024))
    members, _ = tars.tar_members(path)
    assert [member.name for member in members] == ["0.txt"]


def test_a_shard_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_tar(tmp_path / "00007.tar", pair(0))

    def fail(archive):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    with pytest.raises(StoreError, match=r"00007\.tar: OSError: .*Input/output error"):
        tars.index_shard((tmp_path / "00007.tar", tmp_path / "part"))
    assert not (tmp_path / "part").exists(), "else the next call took the shard for a cut one"


def test_shards_behind_linked_folders_are_found(tmp_path):
    write_tar(tmp_path / "disk/b/00000.tar", pair(0))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b").symlink_to(tmp_path / "disk/b")
    assert tars.tar_files(tmp_path / "in") == [tmp_path / "in/b/00000.tar"]


def test_members_of_one_name_are_counted_and_the_first_is_used(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0) + pair(0, "another") + pair(1, b"\xef\xbb\xbfwords"))
    index, found = read_shards(tmp_path)
    assert list(index.captions) == ["caption 0", "words"]
    assert found.listed == 3
    assert found.dropped == {"name_twice": 1}


BAD_ROWS = {
    "no_image": [("1.txt", b"words")],
    "no_caption": [("1.jpg", png(1))],
    "empty": [("1.jpg", b""), ("1.txt", b"words")],
    "not_an_image": [("1.jpg", b"<html>404</html>"), ("1.txt", b"words")],
    "damaged": [("1.jpg", png(1)[:150]), ("1.txt", b"words")],
    "caption_empty": pair(1, b" \n"),
    "caption_not_utf8": pair(1, b"\xff\xfe"),
    "caption_with_nul": pair(1, b"a\0b"),
    "caption_too_long": pair(1, b"x" * 70_000),
}


def test_rows_that_cannot_be_used_are_counted_by_reason_and_the_count_adds_up(tmp_path):
    members = [*pair(0)]
    for reason, row in BAD_ROWS.items():
        members += [(f"{reason}/{name}", data) for name, data in row]
    write_tar(tmp_path / "00000.tar", members)
    index, found = read_shards(tmp_path)
    assert len(index) == 1
    assert found.dropped == dict.fromkeys(BAD_ROWS, 1)
    assert found.listed == len(found.index) + found.dropped.total() == 1 + len(BAD_ROWS)


def test_links_and_devices_are_skipped_and_nothing_is_written(tmp_path):
    """Names only group members, so one that leads out does no harm; the first of two is taken."""
    folder = tmp_path / "a" / "b"
    members = [*pair(0), ("../../evil.jpg", png(1)), ("00000.txt", b"second caption")]
    odd = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    kinds = {f"{number}.jpg": kind for number, kind in enumerate(odd, start=2)}
    write_tar(folder / "00000.tar", members, kinds)
    index, found = read_shards(folder)
    assert list(index.captions) == ["caption 0"]
    assert found.dropped == {"no_caption": 1}
    assert found.shards == {"read": 1}
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize(
    "cut", [1, 700, 1300, 4096], ids=["in a header", "in an image", "in a caption", "between rows"]
)
def test_a_truncated_shard_keeps_its_whole_rows(tmp_path, cut):
    """A row takes six blocks of 512; the cut falls into the last of three rows."""
    row = 6 * 512
    path = write_tar(tmp_path / "00000.tar", pair(0) + pair(1) + pair(2))
    end = min(2 * row + cut, 3 * row)
    path.write_bytes(path.read_bytes()[:end])
    index, found = read_shards(tmp_path)
    assert list(index.captions)[:2] == ["caption 0", "caption 1"]
    assert found.shards["truncated"] == 1
    assert found.listed == len(index) + found.dropped.total()


def test_a_damaged_header_inside_a_shard_is_not_taken_for_its_end(tmp_path):
    path = write_tar(tmp_path / "00000.tar", pair(0) + pair(1))
    data = bytearray(path.read_bytes())
    data[6 * 512 : 7 * 512] = b"\xaa" * 512
    path.write_bytes(data)
    index, found = read_shards(tmp_path)
    assert list(index.captions) == ["caption 0"]
    assert found.shards["truncated"] == 1


def test_shards_that_are_no_tar_are_counted_and_the_others_used(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0))
    (tmp_path / "00001.tar").write_bytes(b"")
    (tmp_path / "00002.tar").write_bytes(b"x")
    (tmp_path / "00003.tar").write_bytes(gzip.compress((tmp_path / "00000.tar").read_bytes()))
    (tmp_path / "00004.tar").write_bytes(bytes(10240))
    index, found = read_shards(tmp_path)
    assert len(index) == 1
    assert len(found.files) == found.shards["read"] == 5
    assert found.shards["not_a_tar"] == 3


def test_folders_without_a_usable_row_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no .tar files"):
        read_shards(tmp_path)
    write_tar(tmp_path / "00000.tar", [("1.txt", b"words")])
    with pytest.raises(StoreError, match=r"no usable row in 1 shards .*'no_image': 1"):
        read_shards(tmp_path)


def modified(folder: Path) -> dict[str, int]:
    """When each file was written, by its name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_index_that_was_killed_goes_on_with_the_shards_it_has_not_read(tmp_path):
    """Three of four shards are indexed; the fourth comes, one changes, and only these two are read."""
    shards, cache = tmp_path / "in", tmp_path / "cache"
    for number in range(3):
        write_tar(shards / f"{number:05d}.tar", pair(number))
    index_shards(shards, cache)
    before = modified(cache)
    write_tar(shards / "00001.tar", pair(7) + pair(8))
    write_tar(shards / "00003.tar", pair(3))

    index = index_shards(shards, cache)

    after = modified(cache)
    assert len(before) == 3
    assert len(after) == 5
    assert before.items() < after.items()
    captions = list(index.index.take(index.rows).captions)
    assert captions == [f"caption {number}" for number in (0, 7, 8, 2, 3)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_a_killed_stage_takes_its_pool_along(tmp_path: Path) -> None:
    """Shards that block whoever opens them; without care, the pool would wait for work for ever."""
    for name in ("0.tar", "1.tar"):
        os.mkfifo(tmp_path / name)
    code = """if __name__ == "__main__":
    from pathlib import Path
    from repro.sources.pool import on_all_cores
    from repro.sources.shards.tars import index_shard
    names = [(Path(f"{i}.tar"), Path(f"{i}.npz")) for i in range(2)]
    list(on_all_cores(index_shard, names, ""))
"""
    (tmp_path / "stage.py").write_text(code)
    path = os.environ | {"PYTHONPATH": str(Path(repro.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "stage.py"], cwd=tmp_path, env=path) as stage:
        wait_for(lambda: sum("spawn_main" in line for line in processes(tmp_path)) == 2)
        # They end once they have set it up that they do.
        time.sleep(2)
        stage.kill()
    wait_for(lambda: not processes(tmp_path), 10)
