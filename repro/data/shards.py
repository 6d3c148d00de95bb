"""Stores: image-text pairs in tar shards of webdataset layout, with an index for random access.

A store is a folder with
- shards: `<name>.png|jpg|webp`, `<name>.txt` (caption) and, in evaluation sets, `<name>.cls`
  (label), one group a row;
- `index.npz` and `shards.json`: see repro/data/index.py.

Shards may lie outside the store: an overlay names the shards of another store and adds its own.
Rows are read with `pread`, so a store may be used by forked workers and by threads; nothing is
ever extracted. A row's key is a hash of its image file and caption, so it is the same wherever,
and beside whatever other rows, the pair is stored.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import Geometry, ImageError, bytes_hash, decode_image
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

SHARD_BYTES = 256 * 2**20
"""A shard is closed at this size."""


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
        """Read the index of the store in `folder`; StoreError if there is none or it does not fit
        its shards' list.
        """
        try:
            shards = SHARDS.validate_json((folder / "shards.json").read_bytes())
            return cls(folder, read_index(folder / "index.npz", shards), shards)
        except FileNotFoundError as error:
            raise StoreError(
                f"{error.filename}: no such file; make the store with `python -m repro data` or "
                "`poison`"
            ) from None
        except (ValueError, OSError) as error:
            raise StoreError(f"{folder}: not a store: {error}") from None

    def __len__(self) -> int:
        return len(self.index)

    def image_bytes(self, i: int) -> bytes:
        """The image file of row `i`; StoreError if its shard is shorter than the index says."""
        # Joined as names, not as folders: `poisoned/` may be a link to another disk, and `..` would
        # leave it there.
        path = os.path.normpath(self.folder / self.shards[self.index.shard[i]].path)
        size = int(self.index.size[i])
        # Opened per read: thousands of shards would exceed a process's limit of open files, and it
        # costs microseconds.
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
            raise StoreError(
                f"{self.folder}: row {i}: {error.reason}; its shard was changed after indexing"
            ) from None

    def decoded(
        self,
        size: int,
        cache_dir: Path,
        geometry: Geometry = "crop",
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Pixels of all (or the given) rows, (N, size, size, 3), as a read-only memory map made
        once per content.

        Concurrent callers, on any host that shares `cache_dir`, wait for the one that makes it.
        """
        cache_dir.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(self)) if rows is None else rows
        name = keyed_digest(
            self.content_hash(), rows.astype(np.int64).tobytes(), size, geometry
        ).hex()[:32]
        path = cache_dir / f"{name}.npy"
        with (cache_dir / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
                    header = {
                        "descr": "|u1",
                        "fortran_order": False,
                        "shape": (len(rows), size, size, 3),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                    # Written, not mapped: on a full disk a write fails with an error, a map with
                    # SIGBUS.
                    for chunk in np.array_split(rows, max(1, len(rows) // 256)):
                        for pixels in pool.map(
                            lambda i: self.decode(int(i), size, geometry), chunk
                        ):
                            file.write(pixels.tobytes())
                partial.replace(path)
        pixels_map: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return pixels_map

    def content_hash(self) -> str:
        """Hash of all that the store says: index columns and shard hashes, not where the shards
        lie.
        """
        digest = hashlib.sha256()
        for name, column in sorted(self.index.arrays().items()):
            digest.update(
                keyed_digest(name, str(column.dtype), str(column.shape)) + column.tobytes()
            )
        for shard in self.shards:
            digest.update(bytes.fromhex(shard.sha256))
        return digest.hexdigest()

    def overlay_shards(self, folder: Path) -> list[Shard]:
        """This store's shards as a store in `folder` names them."""
        return [
            replace(shard, path=os.path.relpath(self.folder / shard.path, folder))
            for shard in self.shards
        ]
