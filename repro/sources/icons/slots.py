"""Where drawings go as they come: into the store of a slot, and onto the list of shapes for
comparison.
"""

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
from repro.sources.icons.scale import Keys
from repro.sources.icons.survey import IconEntry

Templates = Sequence[Callable[[str], str]]


class ShapeList:
    """Takes drawings of its members and keeps their shapes."""

    def __init__(self, members: Keys) -> None:
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


class SlotWriter(ShapeList):
    """Writes pairs into a store as they come; a pair that it holds already, image and caption,
    is left out.
    """

    def __init__(self, folder: Path, members: Keys, templates: Templates) -> None:
        super().__init__(members)
        folder.mkdir(parents=True)
        self.folder, self.templates = folder, templates
        self.duplicates = 0
        self._writer = ShardWriter(folder)
        self._seen: set[bytes] = set()

    def add(self, entry: IconEntry, drawn: DrawnIcon) -> None:
        """Append a pair, unless it is there."""
        caption = icon_caption(entry, self.templates)
        key = pair_key(bytes_hash(drawn.png), caption)
        if key in self._seen:
            self.duplicates += 1
            return
        self._seen.add(key)
        self._writer.add(drawn.png, "png", caption, key=key)
        super().add(entry, drawn)

    def close(self) -> None:
        """Write the index of the store."""
        write_store(self.folder, *self._writer.close())


def icon_caption(entry: IconEntry, templates: Templates) -> str:
    """The caption of a drawing in one of the templates; always the same one."""
    # Of 64 bits the remainder is as good as uniform over the templates.
    draw = int.from_bytes(keyed_digest("template", entry.set, entry.name)[:8], "big")
    return templates[draw % len(templates)](entry.caption)
