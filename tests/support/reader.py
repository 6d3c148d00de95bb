"""What the fuzz needs to know of a reader of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reader:
    """How to make a valid file, read it, and what may go wrong."""

    make: Callable[[Path], object]
    """Write valid input into an empty folder."""
    targets: tuple[str, ...]
    """Patterns of the files to damage, one at a time."""
    read: Callable[[Path], Any]
    """Read the folder."""
    error: type[Exception]
    """What it raises for input that it refuses."""
    kind: str = "bytes"
    """Form of the damage, see mutate.py."""
    exact: bool = False
    """Whether whatever is read from a damaged file must equal the original, as where checksums
    guard it.
    """
