"""The user's tar shards (img2dataset, webdataset), read in place: every row is checked.

Each image is decoded once here, and what cannot be used is counted by reason. Nothing is extracted:
names in the archives only group members into rows. The index of a shard is cached as soon as it is
made. After a kill the next call therefore continues with the next shard.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from repro.data.images import MAX_BYTES, ImageError, bytes_hash, decoder_version, open_rgb
from repro.data.index import (
    NO_LABEL,
    Captions,
    Index,
    Shard,
    StoreError,
    StoreRow,
    index_of,
    key_values,
    pair_key,
)
from repro.data.keyed import keyed_digest
from repro.events import die_with_parent
from repro.files import file_sha256
from repro.ledger import NPZ_ERRORS

CACHE = Path("work/cache/index")
"""Cache of the indices of single shards, relative to the repository."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_CAPTION_BYTES = 2**16


class ShardPart(NamedTuple):
    """Summary of the cached index of one shard."""

    path: Path
    shard: Shard
    keys: NDArray[np.uint8]
    """(N, 16)"""
    counts: Counter[str]
    """Rows: listed, obtained (with an image file), and by reason those that cannot be used."""
    faults: Counter[str]
    """`not_a_tar` or `truncated`: either loses an unknown number of rows."""


@dataclass(frozen=True)
class ShardIndex:
    """All usable rows of a set of shards; only their keys are in memory."""

    parts: Sequence[ShardPart]
    keys: NDArray[np.uint8]
    """(N, 16), by path of the shard and then by name in the shard: the order of the list of
    addresses that img2dataset numbered the shards and names by.
    """
    rows: NDArray[np.int64]
    """Ascending positions of the distinct pairs, each at its first."""
    listed: int
    obtained: int
    dropped: Counter[str]
    """Rows by fate: listed = dropped + len(keys)."""
    shards: Counter[str]
    """Number of shards: read, missing in the numbering, faulty by reason."""
    lost: int
    """Estimated rows that broken and missing shards lack; these are not among the listed."""

    def take(self, rows: NDArray[np.int64]) -> Index:
        """Index of the rows at ascending positions."""
        bounds = np.cumsum([0, *(part.shard.count for part in self.parts)])
        edges = np.searchsorted(rows, bounds)
        indices = [
            _read_index(part.path)[0].take(rows[edges[i] : edges[i + 1]] - bounds[i])
            for i, part in enumerate(self.parts)
        ]
        return _concatenate(indices)


def index_shards(folder: Path, cache: Path = CACHE) -> ShardIndex:
    """Index of all `*.tar` files in `folder` and below, by path.

    Raises StoreError if there is no usable row.
    """
    paths = sorted(folder.rglob("*.tar"))
    if not paths:
        raise StoreError(f"{folder}: no .tar files")
    parts = _parts(folder, paths, cache)

    counts: Counter[str] = sum((part.counts for part in parts), Counter())
    faults: Counter[str] = sum((part.faults for part in parts), Counter())
    faults += Counter(read=len(paths), missing=_missing(paths))
    keys = np.concatenate([part.keys for part in parts])
    if not len(keys):
        raise StoreError(
            f"{folder}: no usable row in {len(paths)} shards ({dict(counts + faults)})"
        )

    # A broken or missing shard is taken for as large as the usual one.
    usual = float(np.median([part.counts["listed"] for part in parts]))
    broken = [part.counts["listed"] for part in parts if part.faults]
    lost = round(faults["missing"] * usual + sum(max(0.0, usual - rows) for rows in broken))
    _, first = np.unique(key_values(keys), return_index=True)
    listed, obtained = counts.pop("listed", 0), counts.pop("obtained", 0)
    return ShardIndex(parts, keys, np.sort(first), listed, obtained, counts, faults, lost)


def _missing(paths: Sequence[Path]) -> int:
    """Gaps in the numbering of shards, folder by folder."""
    numbers: defaultdict[Path, set[int]] = defaultdict(set)
    for path in paths:
        if match := re.search(r"(\d+)$", path.stem):
            numbers[path.parent].add(int(match[1]))
    return sum(max(seen) - min(seen) + 1 - len(seen) for seen in numbers.values())


def _parts(folder: Path, paths: Sequence[Path], cache: Path) -> list[ShardPart]:
    """A part for each shard: from the cache, or made now by all cores."""
    cache.mkdir(parents=True, exist_ok=True)
    code = f"{decoder_version()}, {file_sha256(Path(__file__))}"
    cached = {}
    for path in paths:
        # Size and time stand for the content: a hash would read the whole shard.
        status = path.stat()
        key = keyed_digest(code, str(path.resolve()), status.st_size, status.st_mtime_ns)
        cached[path] = cache / f"{key.hex()[:32]}.npz"

    index_all(folder, {path: part for path, part in cached.items() if not part.exists()})
    return [_read_part(path.relative_to(folder).as_posix(), cached[path]) for path in paths]


def index_all(folder: Path, parts: dict[Path, Path]) -> None:
    """Index shards (keys) into files (values), one process a core."""
    if len(parts) < 2:
        for part in parts.items():
            _index_shard(*part)
        return

    console = Console(stderr=True)
    processes = min(len(parts), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, get_context("spawn"), die_with_parent) as pool:
        calls = pool.map(_index_shard, parts.keys(), parts.values())
        hidden = not console.is_terminal
        list(track(calls, f"indexing {folder}", len(parts), console=console, disable=hidden))


def _read_part(name: str, path: Path) -> ShardPart:
    try:
        index, summary = _read_index(path)
        shard = Shard(name, summary["bytes"], summary["sha256"], len(index))
        counts, faults = Counter(summary["counts"]), Counter(summary["faults"])
        return ShardPart(path, shard, index.keys, counts, faults)
    except (*NPZ_ERRORS, KeyError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and call again") from None


def _read_index(path: Path) -> tuple[Index, dict[str, Any]]:
    """Index of one shard, and its summary; reading compares the checksum of each column."""
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    summary = json.loads(columns.pop("summary").tobytes())
    return Index.of_arrays(columns), summary


def _concatenate(indices: Sequence[Index]) -> Index:
    """One index of several shards; numbers of shards are positions in `indices`."""
    columns = {
        field.name: np.concatenate([getattr(index, field.name) for index in indices])
        for field in fields(Index)
        if field.name not in ("captions", "shard")
    }
    lengths = [len(index) for index in indices]
    sizes = np.concatenate([np.diff(index.captions.offsets) for index in indices])
    blob = np.concatenate([index.captions.blob for index in indices])
    return Index(
        shard=np.repeat(np.arange(len(indices), dtype=np.int32), lengths),
        **columns,
        captions=Captions(blob, np.concatenate([[0], np.cumsum(sizes)])),
    )


def _index_shard(path: Path, part: Path) -> None:
    """Write the index of one shard (as shard number 0) and its summary to `part`."""
    faults: Counter[str] = Counter()
    groups: defaultdict[str, dict[str, tarfile.TarInfo]] = defaultdict(dict)
    for member in tar_members(path, faults):
        folder, _, file_name = member.name.rpartition("/")
        stem, _, suffix = file_name.partition(".")
        groups[f"{folder}/{stem}"].setdefault(suffix.lower(), member)

    counts: Counter[str] = Counter(listed=0, obtained=0)
    rows: list[StoreRow] = []
    with path.open("rb") as file:
        # By name: img2dataset writes in the order of arrival, and numbers by the list.
        for _, group in sorted(groups.items()):
            image = next((group[suffix] for suffix in IMAGE_SUFFIXES if suffix in group), None)
            if image is None and "txt" not in group:
                continue  # no row: statistics, listings
            counts["listed"] += 1
            counts["obtained"] += image is not None
            try:
                rows.append(_row(file.fileno(), image, group.get("txt")))
            except ImageError as error:
                counts[error.reason] += 1

    summary = {
        "counts": counts,
        "faults": +faults,  # without zeros
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }
    columns = index_of(rows).arrays()
    columns["summary"] = np.frombuffer(json.dumps(summary).encode(), dtype=np.uint8)
    partial = part.with_suffix(".partial")
    with partial.open("wb") as out:
        np.savez(out, **columns)  # type: ignore[arg-type]  # numpy's stub takes them for its option
    partial.replace(part)


def tar_members(path: Path, faults: Counter[str]) -> Iterator[tarfile.TarInfo]:
    """Plain files that lie wholly inside an uncompressed tar; `faults` tells of one cut short."""
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    except (tarfile.TarError, OSError):
        faults["not_a_tar"] += 1
        return

    with archive, path.open("rb") as file:
        size = path.stat().st_size
        try:
            for member in archive:
                inside = member.offset_data + member.size <= size
                if member.isreg() and not member.issparse() and inside:
                    yield member
        except (tarfile.TarError, OSError, ValueError):
            # The archive ends inside a member, or the member's header is damaged.
            faults["truncated"] += 1
            return

        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
        faults["truncated"] += end != bytes(tarfile.BLOCKSIZE)


def _row(descriptor: int, image: tarfile.TarInfo | None, text: tarfile.TarInfo | None) -> StoreRow:
    """One row; ImageError with the reason if image or caption cannot be used."""
    if image is None:
        raise ImageError("no_image")
    if text is None:
        raise ImageError("no_caption")
    if image.size > MAX_BYTES:
        raise ImageError("too_many_bytes")
    if text.size > MAX_CAPTION_BYTES:
        raise ImageError("caption_too_long")
    try:
        caption = os.pread(descriptor, text.size, text.offset_data).decode().strip()
    except UnicodeDecodeError:
        raise ImageError("caption_not_utf8") from None
    if not caption or "\0" in caption:
        raise ImageError("caption_with_nul" if caption else "caption_empty")

    data = os.pread(descriptor, image.size, image.offset_data)
    open_rgb(data)
    image_hash = bytes_hash(data)
    key = pair_key(image_hash, caption)
    return StoreRow(0, image.offset_data, image.size, key, image_hash, NO_LABEL, caption)
