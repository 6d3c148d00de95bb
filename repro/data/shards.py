"""Stores: image-text pairs in tar shards of webdataset layout, with an index for random access.

A store is a folder with
- shards: `<name>.png|jpg|webp`, `<name>.txt` (caption) and, in evaluation sets, `<name>.cls` (label), one group a row;
- `index.npz`: per row shard number, offset and size of the image, key, image hash, label, caption (no pickled objects);
- `shards.json`: path relative to the store, bytes, SHA-256 and rows of every shard.

Shards may lie outside the store: an overlay names the shards of another store and adds its own. Rows are read with
`pread`, so a store may be used by forked workers and by threads; nothing is ever extracted. A row's key is a hash of its
image file and caption, so it is the same wherever, and beside whatever other rows, the pair is stored.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from repro.data.images import Geometry, ImageError, content_hash, decode_image
from repro.data.keyed import keyed_digest
from repro.ledger import NPZ_ERRORS

SHARD_BYTES = 256 * 2**20
"""A shard is closed at this size."""
NO_LABEL = -1


class StoreError(ValueError):
    """A store that cannot be used or made; the message names the file and what is wrong."""


class Captions(Sequence[str]):
    """Captions as one blob of UTF-8: a list of six million strings would cost several times the memory."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.blob, self.offsets = blob, offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        try:
            return self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()
        except UnicodeDecodeError:
            raise StoreError(f"caption {i}: not UTF-8; make the store again") from None


@dataclass(frozen=True)
class Shard:
    """One tar file: path relative to the store, size in bytes, SHA-256 in hex, rows it contributes."""

    path: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    count: Annotated[int, Field(ge=0)]


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
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "captions"}
        return arrays | {"caption_bytes": self.captions.blob, "caption_offsets": self.captions.offsets}

    def take(self, rows: NDArray[np.int64]) -> Index:
        """The index of the given rows, in their order."""
        picked = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "captions"}
        return Index(**picked, captions=Captions.of([self.captions[i] for i in rows]))


class Row(NamedTuple):
    """Where one row lies, and what it says."""

    shard: int
    offset: int
    size: int
    key: bytes
    image_hash: bytes
    label: int
    caption: str


def index_of(rows: Sequence[Row]) -> Index:
    """Columns from rows."""
    return Index(
        shard=np.array([row.shard for row in rows], dtype=np.int32),
        offset=np.array([row.offset for row in rows], dtype=np.int64),
        size=np.array([row.size for row in rows], dtype=np.int64),
        keys=np.frombuffer(b"".join(row.key for row in rows), dtype=np.uint8).reshape(-1, 16),
        image_hashes=np.frombuffer(b"".join(row.image_hash for row in rows), dtype=np.uint8).reshape(-1, 16),
        labels=np.array([row.label for row in rows], dtype=np.int64),
        captions=Captions.of([row.caption for row in rows]),
    )


def pair_key(image_hash: bytes, caption: str) -> bytes:
    """16-byte identity of a pair by its content."""
    return keyed_digest("pair", image_hash, caption)[:16]


def write_store(folder: Path, index: Index, shards: Sequence[Shard]) -> None:
    """Write index.npz and shards.json."""
    np.savez(folder / "index.npz", **index.arrays())  # type: ignore[arg-type]  # numpy's stub takes them for its option
    write_json(folder / "shards.json", [asdict(shard) for shard in shards])


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "shard": (np.int32, ()), "offset": (np.int64, ()), "size": (np.int64, ()), "keys": (np.uint8, (16,)), "image_hashes": (np.uint8, (16,)),
    "labels": (np.int64, ()), "caption_bytes": (np.uint8, ()), "caption_offsets": (np.int64, ()),
}  # fmt: skip
"""Arrays of index.npz: type, and shape of an entry."""


def read_index(path: Path, shards: Sequence[Shard]) -> Index:
    """Read index.npz; ValueError if anything in it would fail or mislead a reader of rows later."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS}
    except FileNotFoundError:
        raise
    except NPZ_ERRORS as error:
        raise ValueError(f"{path.name}: unreadable ({error})") from None
    for name, (kind, entry) in COLUMNS.items():
        if columns[name].dtype != kind or columns[name].shape[1:] != entry or not columns[name].ndim:
            raise ValueError(f"{path.name}: {name}: {columns[name].dtype} of shape {columns[name].shape}")
    blob, offsets = columns.pop("caption_bytes"), columns.pop("caption_offsets")
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path.name}: caption_offsets do not cut up caption_bytes")
    index = Index(**columns, captions=Captions(blob, offsets))
    if {len(index.captions), *map(len, columns.values())} != {len(index)}:
        raise ValueError(f"{path.name}: columns of unequal length")
    if len(index) and not 0 <= index.shard.min() <= index.shard.max() < len(shards):
        raise ValueError(f"{path.name}: shard number {index.shard.max()} (allowed: below {len(shards)})")
    room = np.array([shard.bytes for shard in shards], dtype=np.int64)[index.shard]
    if (index.offset < 0).any() or (index.size < 0).any() or (index.offset > room).any() or (index.size > room - index.offset).any():
        raise ValueError(f"{path.name}: a row lies outside its shard")
    return index


class ShardWriter:
    """Writes rows into tar shards whose bytes depend on the rows alone (fixed owner, mode and time; order as given)."""

    def __init__(self, folder: Path, first_shard: int = 0, prefix: str = "") -> None:
        """Shards are named `<prefix><number>.tar` from 0; rows number them from `first_shard`, where an overlay's own begin."""
        self.folder, self.first_shard, self.prefix = folder, first_shard, prefix
        self.rows: list[Row] = []
        self.shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None
        self._path = folder
        self._begun = 0

    def add(self, image: bytes, suffix: str, caption: str, label: int = NO_LABEL, key: bytes | None = None) -> Row:
        """Append a row; `suffix` is png, jpg or webp; `key` is given where the row keeps the identity of another pair."""
        image_hash = content_hash(image)
        key = key or pair_key(image_hash, caption)
        if self._tar is not None and self._tar.offset > SHARD_BYTES:
            self._finish()
        if self._tar is None:
            self._path = self.folder / f"{self.prefix}{len(self.shards):05d}.tar"
            self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._begun = len(self.rows)
        # Numbered, because an evaluation set may hold a pair twice.
        name = f"{len(self.rows):07d}-{key.hex()}"
        offset = self._member(f"{name}.{suffix}", image)
        self._member(f"{name}.txt", caption.encode())
        if label != NO_LABEL:
            self._member(f"{name}.cls", str(label).encode())
        self.rows.append(Row(self.first_shard + len(self.shards), offset, len(image), key, image_hash, label, caption))
        return self.rows[-1]

    def _member(self, name: str, data: bytes) -> int:
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644  # time, user and group stay at their defaults, 0
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            size, count = self._path.stat().st_size, len(self.rows) - self._begun
            self.shards.append(Shard(self._path.name, size, hash_file(self._path), count))

    def close(self) -> tuple[Index, list[Shard]]:
        """Close the last shard; what was written, for `write_store`."""
        self._finish()
        return index_of(self.rows), self.shards


class PairStore:
    """Random access to the rows of a store."""

    def __init__(self, folder: Path, index: Index, shards: Sequence[Shard]) -> None:
        self.folder, self.index, self.shards = folder, index, shards
        self.keys = index.keys  # (N, 16)
        self.captions = index.captions  # N strings
        self.labels = index.labels  # (N,), -1 where there is none

    @classmethod
    def open(cls, folder: Path) -> PairStore:
        """Read the index of the store in `folder`; StoreError if there is none or it does not fit its shards' list."""
        try:
            shards = SHARDS.validate_json((folder / "shards.json").read_bytes())
            return cls(folder, read_index(folder / "index.npz", shards), shards)
        except FileNotFoundError as error:
            raise StoreError(f"{error.filename}: no such file; make the store with `python -m repro data` or `poison`") from None
        except (ValueError, OSError) as error:
            raise StoreError(f"{folder}: not a store: {error}") from None

    def __len__(self) -> int:
        return len(self.index)

    def image_bytes(self, i: int) -> bytes:
        """The image file of row `i`; StoreError if its shard is shorter than the index says."""
        # Joined as names, not as folders: `poisoned/` may be a link to another disk, and `..` would leave it there.
        path = os.path.normpath(self.folder / self.shards[self.index.shard[i]].path)
        size = int(self.index.size[i])
        # Opened per read: thousands of shards would exceed a process's limit of open files, and it costs microseconds.
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make the store again") from None
        try:
            data = os.pread(descriptor, size, int(self.index.offset[i]))
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise StoreError(f"{path}: ends inside row {i}; make the store again")
        return data

    def decode(self, i: int, size: int, geometry: Geometry = "crop") -> NDArray[np.uint8]:
        """Pixels of row `i`, (size, size, 3)."""
        try:
            return decode_image(self.image_bytes(i), size, geometry)
        except ImageError as error:
            raise StoreError(f"{self.folder}: row {i}: {error.reason}; its shard was changed after indexing") from None

    def decoded(self, size: int, cache_dir: Path, geometry: Geometry = "crop", rows: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Pixels of all (or the given) rows, (N, size, size, 3), as a read-only memory map made once per content.

        Concurrent callers, on any host that shares `cache_dir`, wait for the one that makes it.
        """
        cache_dir.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(self)) if rows is None else rows
        name = keyed_digest(self.content_hash(), rows.astype(np.int64).tobytes(), size, geometry).hex()[:32]
        path = cache_dir / f"{name}.npy"
        with (cache_dir / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)}
                    np.lib.format.write_array_header_1_0(file, header)
                    # Written, not mapped: on a full disk a write fails with an error, a map with SIGBUS.
                    for chunk in np.array_split(rows, max(1, len(rows) // 256)):
                        for pixels in pool.map(lambda i: self.decode(int(i), size, geometry), chunk):
                            file.write(pixels.tobytes())
                partial.replace(path)
        pixels_map: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return pixels_map

    def content_hash(self) -> str:
        """Hash of all that the store says: index columns and shard hashes, not where the shards lie."""
        digest = hashlib.sha256()
        for name, column in sorted(self.index.arrays().items()):
            digest.update(keyed_digest(name, str(column.dtype), str(column.shape)) + column.tobytes())
        for shard in self.shards:
            digest.update(bytes.fromhex(shard.sha256))
        return digest.hexdigest()

    def overlay_shards(self, folder: Path) -> list[Shard]:
        """This store's shards as a store in `folder` names them."""
        return [replace(shard, path=os.path.relpath(self.folder / shard.path, folder)) for shard in self.shards]
