"""The memory that a run may count on: of the machine, of its control group, and at most
REPRO_MEMORY_BYTES.

A small value makes a run of toy size take the ways of a large one: images are decoded at every
step, and the BatchNorm groups of a rank are taken one after another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LIMIT = "REPRO_MEMORY_BYTES"
"""Environment variable with the most memory, in bytes, of the machine and of each of its GPUs."""
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the smallest control group of this process."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return at_most_limit(min([size, *(limit for limit, _ in _group_limits())]))


def free_memory() -> int:
    """Bytes that this process may still take; 0 where the system does not say."""
    try:
        lines = (PROC / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    amounts = dict(line.split(":", 1) for line in lines)
    free = int(amounts.get("MemAvailable", "0 kB").split()[0]) * 1024
    return max(0, min([free, *(limit - used for limit, used in _group_limits())]))


def _group_limits() -> Iterator[tuple[int, int]]:
    """Limit and memory in use of each control group that this process is in and that has a limit.

    Slurm's `--mem` is a limit of the job's group, some levels above the process. Cached files count
    as in use there, though they go as soon as memory is needed.
    """
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for folder in (GROUPS / name, *(GROUPS / name).parents):
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            # The root group has no limit, and above it there is none.
            continue
        cached = next((line.split()[1] for line in stat if line.startswith("inactive_file ")), "0")
        if limit != "max":
            yield int(limit), used - int(cached)


def at_most_limit(size: int) -> int:
    """`size` bytes of memory, or what the environment allows of it.

    ValueError if that is not a number of bytes.
    """
    text = os.environ.get(LIMIT)
    if text is None:
        return size
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{LIMIT}: {text!r} (allowed: a positive whole number of bytes, or unset)")
    return min(size, int(text))
