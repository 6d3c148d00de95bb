"""The index of a store: its rows as columns, and the list of its shards.

`index.npz` has per row shard number, offset and size of the image, key, image hash, label, caption
(no pickled objects). `shards.json` has path relative to the store, bytes, SHA-256 and rows of each
shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The captions of a list or iterator."""
        # N + 1 offsets: caption i lies between the i-th and the next.
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
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

    def columns(self) -> dict[str, NDArray[Any]]:
        """All but the captions, by name."""
        return {name: values for name, values in vars(self).items() if name != "captions"}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of index.npz by name."""
        captions: dict[str, NDArray[Any]] = {
            "caption_bytes": self.captions.blob,
            "caption_offsets": self.captions.offsets,
        }
        return self.columns() | captions

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `arrays`; KeyError if they are not those of an index."""
        columns = {f.name: arrays[f.name] for f in fields(cls) if f.name != "captions"}
        captions = Captions(arrays["caption_bytes"], arrays["caption_offsets"])
        return cls(**columns, captions=captions)

    def take(self, rows: NDArray[np.int64]) -> Index:
        """The index of the given rows, in their order."""
        columns = {name: values[rows] for name, values in self.columns().items()}
        return Index(**columns, captions=Captions.of(map(self.captions.__getitem__, rows)))

    def replace(self, rows: NDArray[np.int64], other: Index) -> Index:
        """A copy with `rows` replaced by the rows of `other`, in order."""
        order = np.arange(len(self))
        order[rows] = len(self) + np.arange(len(other))
        return concatenate([self, other]).take(order)


def concatenate(indices: Sequence[Index]) -> Index:
    """The rows of several indices, one after another."""
    columns = {
        name: np.concatenate([getattr(index, name) for index in indices])
        for name in indices[0].columns()
    }
    sizes = np.concatenate([[0], *(np.diff(index.captions.offsets) for index in indices)])
    blob = np.concatenate([index.captions.blob for index in indices])
    return Index(**columns, captions=Captions(blob, np.cumsum(sizes)))


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
