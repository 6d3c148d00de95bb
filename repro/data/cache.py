"""Arrays that are costly to make, kept on disk as read-only memory maps: made once, and checked.

An array lies beside its SHA-256, both written so that a power cut leaves them whole or absent. A
process checks it before its first use; what is not as it was written is made again.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.memory import machine_memory
from repro.files import file_sha256, held, replace_file

SHARE_OF_DISK = 1 / 2
"""Of the free disk that one array may take: checkpoints and results need the rest."""

SHARE_OF_MEMORY = 1 / 8
"""Of the machine's memory: what the page cache does not hold is read anew in every epoch, in
random order, and a machine has up to eight GPUs, each with runs on a set of its own.
"""


def cached_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    chunks: Callable[[], Iterable[NDArray[Any]]],
) -> NDArray[Any]:
    """The array of `path` (.npy) as a read-only memory map; made of `chunks` if it is not there.

    `chunks` gives the array's parts along its first axis, in order. Concurrent callers, on any host
    that shares the folder, wait for the one that makes it.
    """
    if not is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_suffix(".lock"), wait=True):
            # Asked again, for while this process waited another one may have made it.
            if not is_whole(path):
                if path.exists():
                    print(
                        f"{path}: not as it was written; it is made again",
                        file=sys.stderr,
                        flush=True,
                    )
                _make(path, shape, dtype, chunks())

    # Processes that map one file share its pages, and pages that nobody reads need no memory.
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def is_whole(path: Path) -> bool:
    """Whether the array is there and has the hash that stands beside it."""
    try:
        return file_sha256(path) == _hash_path(path).read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def has_room(path: Path, size: int) -> bool:
    """Whether an array of `size` bytes is there, or may be made, by this machine's disk and memory.

    What another process has written of it counts as room. ValueError if the environment's limit of
    memory is none.
    """
    if path.exists():
        return True

    # The cache may not exist yet: its disk is that of the nearest folder above that does.
    partial = path.with_suffix(".partial")
    begun = partial.stat().st_size if partial.exists() else 0
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free + begun
    return size <= min(free * SHARE_OF_DISK, machine_memory() * SHARE_OF_MEMORY)


def _hash_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _make(
    path: Path, shape: tuple[int, ...], dtype: type[np.generic], chunks: Iterable[NDArray[Any]]
) -> None:
    """Write the array and its hash."""
    partial = path.with_suffix(".partial")
    digest = hashlib.sha256()

    # Written, not mapped: on a full disk a write fails with an error, a map with SIGBUS.
    with partial.open("wb") as file:
        header = _header(shape, dtype)
        digest.update(header)
        file.write(header)

        rows = 0
        for chunk in chunks:
            assert chunk.shape[1:] == shape[1:] and chunk.dtype == dtype, (chunk.shape, chunk.dtype)
            content = np.ascontiguousarray(chunk).data
            digest.update(content)
            file.write(content)
            rows += len(chunk)

        assert rows == shape[0], (rows, shape)
        file.flush()
        os.fsync(file.fileno())

    # Between the two a power cut leaves an array without its hash, which is then made again.
    partial.replace(path)
    replace_file(_hash_path(path), f"{digest.hexdigest()}\n".encode())
    _sync_folder(path.parent)


def _header(shape: tuple[int, ...], dtype: type[np.generic]) -> bytes:
    """Head of a .npy file of that shape."""
    buffer = io.BytesIO()
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
