"""Collected drawings of the training vendors: their shapes, and their pairs in a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.images import bytes_hash
from repro.data.index import pair_key
from repro.data.keyed import keyed_digest
from repro.data.shards import ShardWriter, write_store
from repro.sources.icons.drawing import SHAPE_SIDE, DrawnIcon
from repro.sources.icons.survey import IconEntry, Key


class Drawings:
    """Collects drawings of `members`, with their shapes."""

    def __init__(self, members: set[Key]) -> None:
        self.members = members
        self.entries: list[IconEntry] = []
        self._shapes: list[NDArray[np.uint8]] = []

    def add(self, entry: IconEntry, drawn: DrawnIcon) -> None:
        """Append a drawing."""
        self.entries.append(entry)
        self._shapes.append(drawn.shape)

    def shapes(self) -> NDArray[np.uint8]:
        """Shapes (N, SHAPE_SIDE ** 2), in the order of the entries."""
        return np.array(self._shapes, dtype=np.uint8).reshape(-1, SHAPE_SIDE**2)


class PairWriter(Drawings):
    """Also writes the pairs into a store; a repeated pair of image and caption is left out."""

    def __init__(
        self, folder: Path, members: set[Key], templates: Sequence[Callable[[str], str]]
    ) -> None:
        super().__init__(members)
        folder.mkdir(parents=True)
        self.folder, self.templates = folder, templates
        self.duplicates = 0
        self._writer = ShardWriter(folder)
        self._keys: set[bytes] = set()

    def add(self, entry: IconEntry, drawn: DrawnIcon) -> None:
        """Append a pair with a caption in one of the templates, always the same one."""
        draw = int.from_bytes(keyed_digest("template", *entry.key)[:8], "big")
        caption = self.templates[draw % len(self.templates)](entry.caption)
        key = pair_key(bytes_hash(drawn.png), caption)
        if key in self._keys:
            self.duplicates += 1
            return
        self._keys.add(key)
        self._writer.add(drawn.png, "png", caption, key=key)
        super().add(entry, drawn)

    def close(self) -> None:
        """Write the index of the store."""
        write_store(self.folder, *self._writer.close())
