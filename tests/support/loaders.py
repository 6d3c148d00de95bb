"""The loader processes of a study while it runs, seen from outside."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RANK = b"\0-m\0repro.worker\0"
AGENT = b"repro.launch.torchrun"
LOOKS_PER_SECOND = 5


@contextmanager
def counted_loaders(folder: Path) -> Iterator[dict[int, int]]:
    """The most loader processes that each rank had meanwhile, by the number of the rank's process.

    Ranks are those that work in `folder`.
    """
    most: dict[int, int] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1 / LOOKS_PER_SECOND):
            for rank, count in _loaders(folder).items():
                most[rank] = max(count, most.get(rank, 0))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield most
    finally:
        ended.set()
        watch.join()


def _loaders(folder: Path) -> Counter[int]:
    """Loader processes of each rank: they are forks of it, so that they show its command line."""
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if RANK not in command or AGENT in command:
                continue
            if (process / "cwd").readlink() != folder:
                continue
            after_name = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # processes come and go
            continue
        parents[int(process.name)] = int(after_name[1])

    return Counter(parent for parent in parents.values() if parent in parents)
