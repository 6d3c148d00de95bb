"""Sources of the values of a specification, as the comments of its YAML file tell them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

COMMENT = re.compile(r"\s# (.+)$")
"""A comment after a value."""
NAMED = re.compile(r"^\s*# (\w+(?:, \w+)*): (.+)$")
"""A line of its own that gives the source of fields by name."""
SOURCE = re.compile(r"\b(?:paper|code|assumed)\b.*")
"""A source; what stands before it is no part of it, such as a unit."""


class QuotedSpec:
    """A YAML file whose comments are read beside its values."""

    def __init__(self, path: Path) -> None:
        """Read a file that `load_profile` has accepted; OSError if it cannot be read."""
        text = path.read_text(encoding="utf-8")
        self._lines = text.splitlines()

        # The round-trip loader knows the line of every entry, which the safe one does not.
        self._content: Any = YAML(typ="rt", pure=True).load(text)

    def source(self, field: str) -> str:
        """Source of the value at a dotted path, such as `poison.num_poisoned`; empty if none.

        An entry without a comment has that of the entry that it lies in.
        """
        lines = self._line_numbers(field.split("."))
        for depth in range(len(lines), 0, -1):
            told = self._told(lines[:depth], field.split(".")[depth - 1])
            if told:
                return told
        return ""

    def _line_numbers(self, parts: Sequence[str]) -> list[int]:
        """Line of each entry on the way to a value, from 0."""
        node: Any = self._content
        found: list[int] = []
        for part in parts:
            key = int(part) if isinstance(node, list) else part
            place = node.lc.item(key) if isinstance(key, int) else node.lc.key(key)
            found.append(place[0])
            node = node[key]
        return found

    def _told(self, lines: Sequence[int], name: str) -> str:
        """The source of an entry in its own line, or in one above that names it."""
        own = lines[-1]
        comment = COMMENT.search(self._lines[own])
        if comment is None:
            # Between the entry and the nearest line above of one that it lies in.
            first = max((line for line in lines if line < own), default=own)
            for line in self._lines[first:own]:
                named = NAMED.match(line)
                if named is not None and name in named[1].split(", "):
                    return named[2]
            return ""
        source = SOURCE.search(comment[1])
        return source[0] if source else ""
