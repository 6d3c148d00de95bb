"""Stores: image-text pairs in tar shards of webdataset layout, with an index for random access.

A store is a folder with
- shards: `<name>.png|jpg|webp`, `<name>.txt` (caption) and, in evaluation sets, `<name>.cls`
  (label), one group a row;
- `index.npz` and `shards.json`: see repro/data/index.py;
- `SHA256SUMS`: see repro/data/sums.py.

Shards may lie outside the store: an overlay names the shards of another store and adds its own.
Nothing is ever extracted. A row's key is a hash of its image file and caption, so it is the same
wherever, and beside whatever other rows, the pair is stored. Lists are checked when a store is
opened, images as they are read: a shard that changed after it was indexed is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.cache import cached_array, has_room
from repro.data.images import Geometry, ImageError, bytes_hash, decode_image, decoder_version
from repro.data.index import (
    NO_LABEL,
    SHARDS,
    Index,
    Shard,
    StoreError,
    StoreRow,
    index_of,
    pair_key,
    read_index,
)
from repro.data.keyed import keyed_digest
from repro.data.sums import whole, write_sums
from repro.files import file_sha256

SHARD_BYTES = 256 * 2**20
"""A shard is closed at this size."""

OPEN_SHARDS = 64
"""Files that a store keeps open: far fewer than a process may have, of which there are thousands
of shards at paper scale.
"""


def write_store(folder: Path, index: Index, shards: Sequence[Shard]) -> None:
    """Write index.npz and shards.json, and the hashes of both and of the store's own shards."""
    np.savez(folder / "index.npz", **index.arrays())  # type: ignore[arg-type]  # numpy's stub takes them for its option
    write_json(folder / "shards.json", [asdict(shard) for shard in shards])

    # Shards of another store, whose paths lead out of this folder, are in that one's list.
    own = {shard.path: shard.sha256 for shard in shards if "/" not in shard.path}
    lists = {name: file_sha256(folder / name) for name in ("index.npz", "shards.json")}
    write_sums(folder, own | lists)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class ShardWriter:
    """Writes rows into tar shards whose bytes depend on the rows alone (fixed owner, mode and
    time; order as given).
    """

    def __init__(self, folder: Path, first_shard: int = 0, prefix: str = "") -> None:
        """Shards are named `<prefix><number>.tar` from 0; rows number them from `first_shard`,
        where an overlay's own begin.
        """
        self.folder, self.first_shard, self.prefix = folder, first_shard, prefix
        self.rows: list[StoreRow] = []
        self.shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None
        self._path = folder
        self._begun = 0

    def add(
        self,
        image: bytes,
        suffix: str,
        caption: str,
        label: int = NO_LABEL,
        key: bytes | None = None,
    ) -> StoreRow:
        """Append a row; `suffix` is png, jpg or webp; `key` is given where the row keeps the
        identity of another pair.
        """
        image_hash = bytes_hash(image)
        key = key or pair_key(image_hash, caption)

        # A shard ends after the row that fills it; the next row begins another one.
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

        self.rows.append(
            StoreRow(
                self.first_shard + len(self.shards),
                offset,
                len(image),
                key,
                image_hash,
                label,
                caption,
            )
        )
        return self.rows[-1]

    def _member(self, name: str, data: bytes) -> int:
        assert self._tar is not None
        # A header is one block where the name is as short as here; the content comes after it.
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644  # time, user and group stay at their defaults, 0
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            # Read back, so that the list has what lies on the disk.
            size, count = self._path.stat().st_size, len(self.rows) - self._begun
            self.shards.append(Shard(self._path.name, size, file_sha256(self._path), count))

    def close(self) -> tuple[Index, list[Shard]]:
        """Close the last shard; what was written, for `write_store`."""
        self._finish()
        return index_of(self.rows), self.shards


class OpenShard:
    """A shard's file, open as long as anybody holds this."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._close = os.close  # a name of its own: at the end of the process `os` may be gone
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make the store again") from None

    def read(self, offset: int, size: int) -> bytes:
        """Part of the file; shorter where the file ends."""
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        # Also called where `__init__` could not open the file.
        if self._descriptor >= 0:
            self._close(self._descriptor)


class PairStore:
    """Random access to the rows of a store.

    Rows are read with `pread`, from files that stay open: threads and forked processes may share a
    store, and a network file system is not asked for the same file at every image.
    """

    def __init__(self, folder: Path, index: Index, shards: Sequence[Shard]) -> None:
        self.folder, self.index, self.shards = folder, index, shards
        self.keys = index.keys  # (N, 16)
        self.captions = index.captions  # N strings
        self.labels = index.labels  # (N,), -1 where there is none
        self._open = lru_cache(maxsize=OPEN_SHARDS)(OpenShard)

    @classmethod
    def open(cls, folder: Path) -> PairStore:
        """Read the store in `folder`.

        StoreError if there is none, if its index is not as it was written, or does not fit the list
        of its shards.
        """
        try:
            shards = SHARDS.validate_json(whole(folder, "shards.json").read_bytes())
            return cls(folder, read_index(whole(folder, "index.npz"), shards), shards)
        except FileNotFoundError as error:
            raise StoreError(
                f"{error.filename}: no such file; make the store with `python -m repro data` "
                "or `poison`"
            ) from None
        except StoreError:  # names the file and the remedy already
            raise
        except (ValueError, OSError) as error:
            raise StoreError(f"{folder}: not a store: {error}") from None

    def __len__(self) -> int:
        return len(self.index)

    def image_bytes(self, i: int) -> bytes:
        """The image file of row `i`.

        StoreError if its shard cannot be read or holds other bytes than those that were indexed.
        """
        # Joined as names, not as folders: `poisoned/` may be a link to another disk, and `..` would
        # leave it there.
        path = os.path.normpath(self.folder / self.shards[self.index.shard[i]].path)
        size = int(self.index.size[i])
        data = self._open(path).read(int(self.index.offset[i]), size)

        if len(data) != size:
            raise StoreError(f"{path}: ends inside row {i}; make the store again")
        if bytes_hash(data) != self.index.image_hashes[i].tobytes():
            raise StoreError(
                f"{path}: row {i} is not the image that was indexed; put the shard back, or make "
                "the store again"
            )

        return data

    def decode(self, i: int, size: int, geometry: Geometry = "crop") -> NDArray[np.uint8]:
        """Pixels of row `i`, (size, size, 3)."""
        # Its bytes are as indexed, so if they are no image the index, or the decoder, is to blame.
        data = self.image_bytes(i)
        try:
            return decode_image(data, size, geometry)
        except ImageError as error:
            raise StoreError(
                f"{self.folder}: row {i}: {error.reason}; it was no image when it was indexed"
            ) from None

    def decoded(
        self,
        size: int,
        cache: Path,
        geometry: Geometry = "crop",
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Pixels of all (or the given) rows, (N, size, size, 3): a read-only memory map.

        Made once for each content, and checked once in a process.
        """
        rows = np.arange(len(self)) if rows is None else rows
        path = self._decoded_path(size, cache, geometry, rows)
        shape = (len(rows), size, size, 3)
        return cached_array(path, shape, np.uint8, lambda: self._pixels(size, geometry, rows))

    def decoded_if_room(
        self, size: int, cache: Path, rows: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """As `decoded`, or None where this machine has not the disk or the memory for it."""
        path = self._decoded_path(size, cache, "crop", rows)
        if not has_room(path, len(rows) * size**2 * 3):
            return None

        return self.decoded(size, cache, rows=rows)

    def _decoded_path(
        self, size: int, cache: Path, geometry: Geometry, rows: NDArray[np.int64]
    ) -> Path:
        """A name for each content and decoder."""
        chosen = rows.astype(np.int64).tobytes()
        key = keyed_digest(self.content_hash(), chosen, size, geometry, decoder_version())
        return cache / f"{key.hex()[:32]}.npy"

    def _pixels(
        self, size: int, geometry: Geometry, rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """Pixels of the rows in blocks, decoded by all cores."""
        # Threads, for Pillow lets go of the interpreter's lock while it decodes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for block in np.array_split(rows, max(1, len(rows) // 256)):
                images = pool.map(lambda i: self.decode(int(i), size, geometry), block)
                yield np.array(list(images), dtype=np.uint8).reshape(len(block), size, size, 3)

    def content_hash(self) -> str:
        """Hash of all that the store says, wherever its shards lie: index columns, shard hashes."""
        if self._content_hash is None:
            self._content_hash = self._hash_content()
        return self._content_hash

    _content_hash: str | None = None

    def _hash_content(self) -> str:
        # Type and shape as well: other numbers may have the same bytes.
        digest = hashlib.sha256()
        for name, column in sorted(self.index.arrays().items()):
            digest.update(keyed_digest(name, str(column.dtype), str(column.shape)))
            digest.update(np.ascontiguousarray(column).data)

        # Not their paths: a store that was moved is still the same.
        for shard in self.shards:
            digest.update(bytes.fromhex(shard.sha256))

        return digest.hexdigest()

    def overlay_shards(self, folder: Path) -> list[Shard]:
        """This store's shards as a store in `folder` names them."""
        return [
            replace(shard, path=os.path.relpath(self.folder / shard.path, folder))
            for shard in self.shards
        ]
