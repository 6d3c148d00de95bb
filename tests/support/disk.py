"""A small disk, and how to fill it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

needs_mount = pytest.mark.skipif(
    os.getuid() != 0
    or shutil.which("mount") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="mounting a small disk needs root",
)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """The new folder as a disk of its own inside the block; `size` as of tmpfs, such as `4m`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill the disk but for `left` bytes; returns the file that does it."""
    ballast = folder / "ballast"
    # Others may write to the disk meanwhile.
    for _ in range(100):
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with suppress(OSError), ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - left)
            return ballast
    raise AssertionError(f"{folder} could not be filled")
