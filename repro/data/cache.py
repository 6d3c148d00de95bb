"""Arrays that are costly to make, on disk as read-only memory maps."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.memory import machine_memory
from repro.files import held

SHARE_OF_DISK = 1 / 2
"""Of the free disk, for one array: checkpoints and results need the rest."""

SHARE_OF_MEMORY = 1 / 2
"""Of the memory, for one array: the processes of a machine map the same files, and each trains on
one set of pairs at a time. `repro plan` counts on the same share.
"""


def cached_array(
    path: Path, shape: tuple[int, ...], chunks: Callable[[], Iterable[NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """The bytes in `path` (.npy) as a read-only memory map; made of `chunks` if there is none.

    `chunks` gives the parts of the array along its first axis, in order. The file appears when
    complete. Concurrent callers, on all hosts that share the folder, wait for the one that makes
    it.
    """
    if not path.exists():
        # The folder may be a link to a local disk where nothing is yet on this machine.
        os.makedirs(os.path.realpath(path.parent), exist_ok=True)
        with held(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                _make(path, shape, chunks())

    # Processes that map one file share its pages.
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _make(path: Path, shape: tuple[int, ...], chunks: Iterable[NDArray[np.uint8]]) -> None:
    partial = path.with_suffix(".partial")
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    # Written, not mapped: on a full disk a write raises an error, a map ends the process.
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        # A part of 30 GB would keep a full disk full.
        partial.unlink(missing_ok=True)


def has_room(path: Path, size: int) -> bool:
    """Whether an array of `size` bytes exists, or may be made, by free disk and memory."""
    if path.exists():
        return True

    # The cache may not exist yet: its disk is that of the nearest existing folder.
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return size <= min(free * SHARE_OF_DISK, machine_memory() * SHARE_OF_MEMORY)
