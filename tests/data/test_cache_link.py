"""work/cache as docs/gpu.md makes it: a link to a local disk, whose folder a node lacks at first."""

from collections import namedtuple
from pathlib import Path

import pytest

from repro.data import cache
from repro.sources.shards import tars
from tests.support.synthetic import write_pairs


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that work/cache leads to, which is not there; a disk of its own above it."""
    monkeypatch.chdir(tmp_path)
    Path("work").mkdir()
    Path("scratch").mkdir()
    folder = tmp_path / "scratch/user/cache"
    Path("work/cache").symlink_to(folder)
    return folder


def test_room_is_that_behind_the_link(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def disk_usage(folder: Path) -> object:
        asked.append(folder)
        return namedtuple("Usage", "free")(10**12)

    monkeypatch.setattr(cache.shutil, "disk_usage", disk_usage)
    assert cache.has_room(Path("work/cache/a.npy"), 1)
    assert asked == [linked.parents[1]]


def test_shards_are_indexed_behind_the_link(linked: Path) -> None:
    """The first stage of the paper's graph writes there before any worker does."""
    incoming = Path("incoming")
    write_pairs(incoming, 3, 3, seed=1)
    index = tars.index_shards(incoming)
    assert len(index.rows) == 3
    files = list((linked / "index").glob("*.npz"))
    assert len(files) == 1
