"""The index of a store: its rows as columns, and the list of its shards.

`index.npz` has per row shard number, offset and size of the image, key, image hash, label, caption
(no pickled objects). `shards.json` has path relative to the store, bytes, SHA-256 and rows of each
shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from repro.data.keyed import keyed_digest

NO_LABEL = -1


class StoreError(ValueError):
    """A store that cannot be read or made; the message names file and fault."""


class Captions(Sequence[str]):
    """Captions as one blob of UTF-8.

    A list of six million strings takes several times the memory. Besides, each forked process would
    copy its pages, because Python counts references in them.
    """

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.blob, self.offsets = blob, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The captions of a list or iterator."""
        # N + 1 offsets: caption i lies between the i-th and the next.
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]

        # Negative numbers and IndexError as in a list.
        i = range(len(self))[index]
        return self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()


@dataclass(frozen=True)
class Shard:
    """One tar file of a store."""

    path: str
    """Relative to the store."""
    bytes: int
    sha256: str
    count: int
    """Rows that it contributes."""


SHARDS = TypeAdapter(list[Shard])
"""Reader of shards.json."""


@dataclass(frozen=True)
class Index:
    """The rows of a store, one array entry each."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    keys: NDArray[np.uint8]
    """(N, 16)"""
    image_hashes: NDArray[np.uint8]
    """(N, 16): content hash of the image file."""
    labels: NDArray[np.int64]
    """-1 where there is none."""
    captions: Captions

    def __len__(self) -> int:
        return len(self.shard)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of index.npz by name."""
        columns = dict(vars(self))
        captions = columns.pop("captions")
        return columns | {"caption_bytes": captions.blob, "caption_offsets": captions.offsets}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Inverse of `arrays`."""
        columns = dict(arrays)
        captions = Captions(columns.pop("caption_bytes"), columns.pop("caption_offsets"))
        return cls(**columns, captions=captions)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read index.npz; one of NPZ_ERRORS if it is damaged or inconsistent."""
        names = [field.name for field in fields(cls) if field.name != "captions"]
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names += ["caption_bytes", "caption_offsets"]
            index = cls.of_arrays({name: file[name] for name in names})
        if {len(column) for column in vars(index).values()} != {len(index)}:
            raise ValueError(f"{path.name}: columns of unequal length")
        return index

    def take(self, rows: NDArray[np.int64]) -> Index:
        """The index of the given rows, in their order."""
        columns = dict(vars(self))
        captions = Captions.of(map(columns.pop("captions").__getitem__, rows))
        return Index(**{name: values[rows] for name, values in columns.items()}, captions=captions)

    def replace(self, rows: NDArray[np.int64], other: Index) -> Index:
        """A copy with `rows` replaced by the rows of `other`, in order."""
        captions = list(self.captions)
        columns = {name: values.copy() for name, values in vars(self).items() if name != "captions"}
        for name, column in columns.items():
            column[rows] = getattr(other, name)
        for row, caption in zip(rows, other.captions, strict=True):
            captions[row] = caption
        return Index(**columns, captions=Captions.of(captions))


class StoreRow(NamedTuple):
    """Position and content of one row."""

    shard: int
    offset: int
    size: int
    key: bytes
    image_hash: bytes
    label: int
    caption: str


def index_of(rows: Sequence[StoreRow]) -> Index:
    """Columns from rows."""
    shard, offset, size, keys, hashes, labels, captions = (
        zip(*rows, strict=True) if rows else ((),) * 7
    )
    return Index(
        np.array(shard, dtype=np.int32),
        np.array(offset, dtype=np.int64),
        np.array(size, dtype=np.int64),
        np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16),
        np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16),
        np.array(labels, dtype=np.int64),
        Captions.of(captions),
    )


def pair_key(image_hash: bytes, caption: str) -> bytes:
    """16-byte identity of a pair by its content."""
    return keyed_digest("pair", image_hash, caption)[:16]


def key_values(keys: NDArray[np.uint8]) -> NDArray[np.void]:
    """Keys or hashes (N, 16) as N values that numpy can sort and compare."""
    return np.ascontiguousarray(keys).view("V16").ravel()
