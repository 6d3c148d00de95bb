"""The index of a store: its rows as columns, and the list of its shards.

`index.npz` has per row shard number, offset and size of the image, key, image hash, label, caption
(no pickled objects). `shards.json` has path relative to the store, bytes, SHA-256 and rows of each
shard. Both are checked for consistency when read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from repro.data.keyed import keyed_digest
from repro.ledger import NPZ_ERRORS

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
        encoded = self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes()
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            raise StoreError(f"caption {i}: not UTF-8; make the store again") from None


@dataclass(frozen=True)
class Shard:
    """One tar file of a store."""

    path: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
    """Relative to the store."""
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    count: Annotated[int, Field(ge=0)]
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
        captions: dict[str, NDArray[Any]] = {
            "caption_bytes": self.captions.blob,
            "caption_offsets": self.captions.offsets,
        }
        return self._columns() | captions

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Inverse of `arrays`."""
        columns = dict(arrays)
        captions = Captions(columns.pop("caption_bytes"), columns.pop("caption_offsets"))
        return cls(**columns, captions=captions)

    def take(self, rows: NDArray[np.int64]) -> Index:
        """The index of the given rows, in their order."""
        columns = {name: column[rows] for name, column in self._columns().items()}
        return Index(**columns, captions=Captions.of(self.captions[i] for i in rows))

    def replace(self, rows: NDArray[np.int64], other: Index) -> Index:
        """A copy with `rows` replaced by the rows of `other`, in order."""
        columns = {name: column.copy() for name, column in self._columns().items()}
        for name, column in other._columns().items():
            columns[name][rows] = column
        captions = list(self.captions)
        for row, caption in zip(rows, other.captions, strict=True):
            captions[row] = caption
        return Index(**columns, captions=Captions.of(captions))

    def _columns(self) -> dict[str, NDArray[Any]]:
        """The columns with one entry a row."""
        names = [field.name for field in fields(self) if field.name != "captions"]
        return {name: getattr(self, name) for name in names}


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
    keys = b"".join(row.key for row in rows)
    image_hashes = b"".join(row.image_hash for row in rows)
    return Index(
        shard=np.array([row.shard for row in rows], dtype=np.int32),
        offset=np.array([row.offset for row in rows], dtype=np.int64),
        size=np.array([row.size for row in rows], dtype=np.int64),
        keys=np.frombuffer(keys, dtype=np.uint8).reshape(-1, 16),
        image_hashes=np.frombuffer(image_hashes, dtype=np.uint8).reshape(-1, 16),
        labels=np.array([row.label for row in rows], dtype=np.int64),
        captions=Captions.of(row.caption for row in rows),
    )


def pair_key(image_hash: bytes, caption: str) -> bytes:
    """16-byte identity of a pair by its content."""
    return keyed_digest("pair", image_hash, caption)[:16]


def key_values(keys: NDArray[np.uint8]) -> NDArray[np.void]:
    """Keys or hashes (N, 16) as N values that numpy can sort and compare."""
    return np.ascontiguousarray(keys).view("V16").ravel()


COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "shard": (np.int32, ()),
    "offset": (np.int64, ()),
    "size": (np.int64, ()),
    "keys": (np.uint8, (16,)),
    "image_hashes": (np.uint8, (16,)),
    "labels": (np.int64, ()),
    "caption_bytes": (np.uint8, ()),
    "caption_offsets": (np.int64, ()),
}
"""Arrays of index.npz: type, and shape of an entry."""


def read_index(path: Path, shards: Sequence[Shard]) -> Index:
    """Read index.npz; ValueError if it is damaged, inconsistent or does not fit the shards."""
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS}
    except FileNotFoundError:
        raise
    except NPZ_ERRORS as error:
        raise ValueError(f"{path.name}: unreadable ({error})") from None

    for name, (kind, entry) in COLUMNS.items():
        column = columns[name]
        if column.dtype != kind or column.shape[1:] != entry or not column.ndim:
            raise ValueError(f"{path.name}: {name}: {column.dtype} of shape {column.shape}")

    offsets = columns["caption_offsets"]
    bounds = offsets[[0, -1]].tolist() if len(offsets) else []
    if bounds != [0, len(columns["caption_bytes"])] or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path.name}: caption_offsets do not cut up caption_bytes")

    index = Index.of_arrays(columns)
    if {len(index.captions), *map(len, index._columns().values())} != {len(index)}:
        raise ValueError(f"{path.name}: columns of unequal length")
    if not len(index):
        return index

    # Every row must lie wholly inside its shard.
    first, last = index.shard.min(), index.shard.max()
    if not 0 <= first <= last < len(shards):
        raise ValueError(f"{path.name}: shard number {last} (allowed: below {len(shards)})")
    negative = (index.offset < 0) | (index.size < 0)
    room = np.array([shard.bytes for shard in shards], dtype=np.int64)[index.shard]
    # Two comparisons, because the sum of offset and size may overflow.
    beyond = (index.offset > room) | (index.size > room - index.offset)
    if (negative | beyond).any():
        raise ValueError(f"{path.name}: a row lies outside its shard")
    return index
