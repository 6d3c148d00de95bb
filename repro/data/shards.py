"""Stores: image-text pairs in tar shards of webdataset layout, with an index for random access.

A store is a folder with
- shards: `<name>.png|jpg|webp`, `<name>.txt` (caption) and, in evaluation sets, `<name>.cls`
  (label), one group a row;
- `index.npz` and `shards.json`: see repro/data/index.py;
- `settings.json`: see repro/data/stages.py.

Shards may lie outside of the store: the index of a poisoned store names the shards of the clean one
and adds its own. Nothing is ever extracted. The key of a row is a hash of image file and caption,
and so independent of the store and of other rows. Each image is compared with its hash when it is
read: a shard that changed after it was indexed is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.cache import cached_array, has_room
from repro.data.images import Geometry, bytes_hash, decode_image, decoder_version
from repro.data.index import (
    NO_LABEL,
    SHARDS,
    Index,
    Shard,
    StoreError,
    StoreRow,
    index_of,
    pair_key,
)
from repro.data.keyed import keyed_digest
from repro.data.memory import cores
from repro.files import file_sha256
from repro.ledger import read_npz

SHARD_BYTES = 256 * 2**20
"""A shard is closed at this size."""

STORES = 3
"""Stores that a process has open at a time: its open files are divided among them."""


def write_store(folder: Path, index: Index, shards: Sequence[Shard]) -> None:
    """Write index.npz and shards.json."""
    np.savez(folder / "index.npz", **index.arrays())  # type: ignore[arg-type]  # numpy's stub takes them for its option
    write_json(folder / "shards.json", [asdict(shard) for shard in shards])


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class ShardWriter:
    """Writes rows into tar shards whose bytes depend on the rows and their order alone."""

    def __init__(self, folder: Path, first_shard: int = 0, prefix: str = "") -> None:
        """Shards are named `<prefix><number>.tar` from 0. Rows number them from `first_shard`, the
        number of shards of another store that precede these in the list.
        """
        self.folder = folder
        self.first_shard = first_shard
        self.prefix = prefix
        self.rows: list[StoreRow] = []
        self.shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None

    def add(
        self,
        image: bytes,
        suffix: str,
        caption: str,
        label: int = NO_LABEL,
        key: bytes | None = None,
    ) -> None:
        """Append a row; `suffix` is png, jpg or webp; `key` is that of the pair by default."""
        image_hash = bytes_hash(image)
        key = key or pair_key(image_hash, caption)
        if self._tar is not None and self._tar.offset > SHARD_BYTES:
            self._finish()
        if self._tar is None:
            path = self.folder / f"{self.prefix}{len(self.shards):05d}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

        # Numbered, because an evaluation set may hold a pair twice.
        name = f"{len(self.rows):07d}-{key.hex()}"
        offset = self._tar.offset + tarfile.BLOCKSIZE  # the header of a short name is one block
        files = {suffix: image, "txt": caption.encode()}
        if label != NO_LABEL:
            files["cls"] = str(label).encode()
        for ending, content in files.items():
            info = tarfile.TarInfo(f"{name}.{ending}")  # time, user and group are 0
            info.size = len(content)
            info.mode = 0o644
            self._tar.addfile(info, io.BytesIO(content))

        shard = self.first_shard + len(self.shards)
        self.rows.append(StoreRow(shard, offset, len(image), key, image_hash, label, caption))

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            path = Path(str(self._tar.name))
            self._tar = None
            count = len(self.rows) - sum(shard.count for shard in self.shards)
            # Read back: the hash is that of the bytes on the disk.
            self.shards.append(Shard(path.name, path.stat().st_size, file_sha256(path), count))

    def close(self) -> tuple[Index, list[Shard]]:
        """Close the last shard; index and shards for `write_store`."""
        self._finish()
        return index_of(self.rows), self.shards


class OpenShard:
    """An open shard file; closed with the last reference to this object."""

    def __init__(self, path: str) -> None:
        self._close, self._descriptor = os.close, -1  # at the end of the process `os` may be gone
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make the store again") from None

    def read(self, offset: int, size: int) -> bytes:
        """Part of the file; shorter at the end of the file."""
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self._close(self._descriptor)


class PairStore:
    """Random access to the rows of a store.

    Threads and forked processes may share a store: `pread` has no position. Files stay open, for
    rows come in random order from thousands of shards, and each opening may go over a network.
    """

    def __init__(self, folder: Path, index: Index, shards: Sequence[Shard]) -> None:
        self.folder = folder
        self.index = index
        self.shards = shards
        self.keys = index.keys  # (N, 16)
        self.captions = index.captions  # N strings
        self.labels = index.labels  # (N,), -1 where there is none
        self._open = lru_cache(maxsize=_most_open_files() // STORES)(OpenShard)

    @classmethod
    def open(cls, folder: Path) -> PairStore:
        """Read the store in `folder`; StoreError if there is none or its index is inconsistent."""
        try:
            shards = SHARDS.validate_json((folder / "shards.json").read_bytes())
            return cls(folder, Index.of_arrays(read_npz(folder / "index.npz")), shards)
        except FileNotFoundError as error:
            raise StoreError(
                f"{error.filename}: no such file; make the store with `python -m repro data` "
                "or `poison`"
            ) from None
        except (ValueError, KeyError) as error:
            raise StoreError(f"{folder}: not a store: {error}; make it again") from None

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, name: str) -> NDArray[np.int64]:
        """Ascending rows of a list in rows.npz; LedgerError if the file is damaged."""
        rows: NDArray[np.int64] = read_npz(self.folder / "rows.npz")[name]
        return rows

    def image_bytes(self, i: int) -> bytes:
        """The image file of row `i`; StoreError if its shard is not readable or has changed."""
        # `..` must cancel a name, not follow a link: `poisoned/` may be a link to another disk.
        path = os.path.normpath(str(self.folder / self.shards[self.index.shard[i]].path))
        data = self._open(path).read(int(self.index.offset[i]), int(self.index.size[i]))
        if bytes_hash(data) != self.index.image_hashes[i].tobytes():
            raise StoreError(
                f"{path}: row {i} is not the image that was indexed; restore the shard, or make "
                "the store again"
            )
        return data

    def decode(self, i: int, size: int, geometry: Geometry = "crop") -> NDArray[np.uint8]:
        """Pixels of row `i`, (size, size, 3)."""
        return decode_image(self.image_bytes(i), size, geometry)

    def decoded(
        self, size: int, cache: Path, rows: NDArray[np.int64], geometry: Geometry = "crop"
    ) -> NDArray[np.uint8]:
        """Pixels of some rows, (N, size, size, 3): a memory map in `cache`."""
        path = self._decoded_path(size, cache, geometry, rows)
        shape = (len(rows), size, size, 3)
        return cached_array(path, shape, lambda: self._pixels(size, geometry, rows))

    def decoded_if_room(
        self, size: int, cache: Path, rows: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """`decoded`, or None if disk or memory of this machine do not suffice."""
        path = self._decoded_path(size, cache, "crop", rows)
        room = has_room(path, len(rows) * size**2 * 3)
        return self.decoded(size, cache, rows) if room else None

    def _decoded_path(
        self, size: int, cache: Path, geometry: Geometry, rows: NDArray[np.int64]
    ) -> Path:
        chosen = rows.astype(np.int64).tobytes()
        key = keyed_digest(self.content_hash, chosen, size, geometry, decoder_version()).hex()
        return cache / f"{key[:32]}.npy"

    def _pixels(
        self, size: int, geometry: Geometry, rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """Pixels of the rows in blocks, decoded by all cores."""
        # Threads suffice: Pillow releases the interpreter's lock while it decodes.
        with ThreadPoolExecutor(cores()) as pool:
            for block in np.array_split(rows, max(1, len(rows) // 256)):
                images = pool.map(lambda i: self.decode(int(i), size, geometry), block)
                yield np.array(list(images), dtype=np.uint8).reshape(len(block), size, size, 3)

    @cached_property
    def content_hash(self) -> str:
        """Hash of index columns and shards, wherever the shards lie."""
        # Type and shape as well: other numbers may have the same bytes.
        digest = hashlib.sha256()
        for name, column in sorted(self.index.arrays().items()):
            digest.update(keyed_digest(name, str(column.dtype), str(column.shape)))
            digest.update(np.ascontiguousarray(column).data)

        # Hashes, not paths: a moved store is the same.
        for shard in self.shards:
            digest.update(bytes.fromhex(shard.sha256))
        return digest.hexdigest()

    def overlay_shards(self, folder: Path) -> list[Shard]:
        """The shards, with paths relative to `folder`."""
        return [
            replace(shard, path=os.path.relpath(self.folder / shard.path, folder))
            for shard in self.shards
        ]


def _most_open_files() -> int:
    """Files that this process may have open, after raising its limit as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
