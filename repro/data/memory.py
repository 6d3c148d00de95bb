"""The memory that a run may count on: what is there, unless REPRO_MEMORY_BYTES says less.

A small value makes a run of toy size take the ways of a large one: images are decoded at every
step, and the BatchNorm groups of a rank are taken one after another.
"""

from __future__ import annotations

import os

LIMIT = "REPRO_MEMORY_BYTES"
"""Environment variable with the most memory, in bytes, of the machine and of each of its GPUs."""


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return at_most_limit(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


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
