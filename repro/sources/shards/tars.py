"""Index of webdataset shards that somebody else wrote, such as img2dataset's: every row checked,
nothing extracted.

Each image is decoded once, so that training meets no surprise; what cannot be used is counted by
reason. Names in the archives only group members into rows and never touch the disk. The index of a
shard is kept in a cache as soon as it is made: a killed index goes on with the next shard, and
memory holds the rows that are used, not all there are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from repro.data.images import MAX_BYTES, ImageError, bytes_hash, open_rgb
from repro.data.index import (
    NO_LABEL,
    Captions,
    Index,
    Shard,
    StoreError,
    StoreRow,
    index_of,
    pair_key,
)
from repro.data.keyed import keyed_digest
from repro.events import die_with_parent
from repro.files import file_sha256
from repro.ledger import NPZ_ERRORS
from repro.sources.shards.members import IMAGE_SUFFIXES, Member, tar_members

CACHE = Path("work/cache/index")
"""Where indices of single shards are kept, relative to the repository."""
MAX_CAPTION_BYTES = 2**16
NO_ROW = -1
BROKEN = {"not_a_tar", "truncated"}
"""Faults by which a shard loses rows that nobody can count."""
PARTS = (open_rgb, keyed_digest, pair_key, tar_members)
SOURCES = [inspect.getfile(part) for part in PARTS] + [__file__]
CODE = hashlib.sha256(b"".join(Path(name).read_bytes() for name in SOURCES)).digest()
"""What the content of a cached index depends on besides its shard."""


@dataclass
class Accounting:
    """What became of the rows of a set of shards: listed = decoded + all that was dropped.

    Duplicates are among the decoded.
    """

    listed: int
    obtained: int
    """Rows with an image file."""
    decoded: int
    duplicate: int
    dropped: Counter[str]
    shards: Counter[str]
    """Shards read, missing from the numbering, and faulty by reason."""
    lost: int
    """Rows that lost, cut and foreign shards would hold beyond those that were found in them, if
    they were like the others; not among the listed.
    """


class Part(NamedTuple):
    """What the cached index of one shard tells."""

    keys: NDArray[np.uint8]
    order: NDArray[np.int64]
    counts: Counter[str]
    faults: Counter[str]
    bytes: int
    sha256: str

    @property
    def is_broken(self) -> bool:
        """Whether the shard is no tar, or ends too early."""
        return bool(self.faults.keys() & BROKEN)


@dataclass(frozen=True)
class ShardIndex:
    """All usable rows of a set of shards, by position; their columns stay on disk."""

    shards: list[Shard]
    keys: NDArray[np.uint8]
    """(N, 16)"""
    order: NDArray[np.int64]
    """(N,): place in the list that the rows were downloaded from, or else in the shards."""
    accounting: Accounting
    _parts: list[Path]

    def distinct(self) -> NDArray[np.int64]:
        """Positions of the rows without repeated pairs, ascending; the first of its order stands
        for a pair.
        """
        # `np.unique` gives the first position of each key, here first in the order of the list.
        ordered = np.argsort(self.order, kind="stable")
        _, first = np.unique(
            np.ascontiguousarray(self.keys[ordered]).view("V16").ravel(), return_index=True
        )
        return np.sort(ordered[first])

    def take(self, rows: NDArray[np.int64]) -> Index:
        """The index of the rows at the given ascending positions."""
        # Shard k holds positions bounds[k] to bounds[k + 1]; the rows that fall there are its own.
        bounds = np.concatenate([[0], np.cumsum([shard.count for shard in self.shards])])
        edges = np.searchsorted(rows, bounds)
        parts = []
        for number, path in enumerate(self._parts):
            with np.load(path, allow_pickle=False) as columns:
                parts.append(
                    _columns(columns).take(rows[edges[number] : edges[number + 1]] - bounds[number])
                )
        return _concatenate(parts)


def index_shards(folder: Path, cache: Path = CACHE) -> ShardIndex:
    """Rows of all `*.tar` files in `folder` and below, by path.

    Shard paths are relative to `folder`. Raises StoreError if there is no usable row.
    """
    paths = sorted(folder.rglob("*.tar"))
    if not paths:
        raise StoreError(f"{folder}: no .tar files")

    # One part for each shard, from the cache or made now.
    cache.mkdir(parents=True, exist_ok=True)
    places = [_part_path(path, cache) for path in paths]
    parts = _make_parts(folder, paths, places)

    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter(read=len(paths), missing=_missing(paths))
    shards = []
    for path, part in zip(paths, parts, strict=True):
        counts.update(part.counts)
        faults.update(part.faults)
        name = path.relative_to(folder).as_posix()
        shards.append(Shard(name, part.bytes, part.sha256, len(part.keys)))

    keys = np.concatenate([part.keys for part in parts])
    order = np.concatenate([part.order for part in parts])
    if not len(keys):
        raise StoreError(
            f"{folder}: no usable row in {len(paths)} shards ({dict(counts + faults)})"
        )

    # Where one row does not tell its place in the list, the order of the shards stands for all.
    if (order == NO_ROW).any():
        order = np.arange(len(keys))

    accounting = Accounting(
        listed=counts.pop("listed"),
        obtained=counts.pop("obtained", 0),
        decoded=len(keys),
        duplicate=0,
        dropped=counts,
        shards=+faults,  # without zeros
        lost=_lost_rows(parts, faults["missing"]),
    )
    index = ShardIndex(shards, keys, order, accounting, places)
    accounting.duplicate = len(keys) - len(index.distinct())
    return index


def _lost_rows(parts: Sequence[Part], missing: int) -> int:
    """Rows that broken and missing shards would hold if they were like the others.

    What was found in a broken shard is no loss. Without any whole shard the fullest stands for one.
    """
    broken = [part.counts["listed"] for part in parts if part.is_broken]
    good = [part.counts["listed"] for part in parts if not part.is_broken]
    usual = sum(good) / len(good) if good else max(broken)
    return round(missing * usual + sum(max(0.0, usual - found) for found in broken))


def _make_parts(folder: Path, paths: Sequence[Path], places: Sequence[Path]) -> list[Part]:
    """The part of each shard: read where it is there and whole, made anew where not."""
    parts = [_read_part(place) for place in places]
    todo = [number for number, part in enumerate(parts) if part is None]
    _index_all(folder, [paths[number] for number in todo], [places[number] for number in todo])

    for number in todo:
        parts[number] = _read_part(places[number])
    made = [part for part in parts if part is not None]
    if len(made) != len(parts):
        raise StoreError(f"{places[0].parent}: what was written there cannot be read")

    return made


def _read_part(place: Path) -> Part | None:
    """What the cached index of a shard tells; None where it is not there, or damaged."""
    if not place.exists():
        return None

    try:
        # All columns, for each carries a checksum of its own, which reading compares. Opened here,
        # for numpy leaves a damaged file open.
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        _columns(columns)
        told = json.loads(columns["told"].tobytes())
        return Part(
            columns["keys"],
            columns["order"],
            Counter(told["counts"]),
            Counter(told["faults"]),
            told["bytes"],
            told["sha256"],
        )
    except (*NPZ_ERRORS, KeyError, TypeError) as error:
        print(
            f"{place}: damaged ({type(error).__name__}); its shard is indexed again",
            file=sys.stderr,
            flush=True,
        )
        place.unlink()
        return None


def _index_all(folder: Path, paths: Sequence[Path], places: Sequence[Path]) -> None:
    """Index shards, in parallel if there are several."""
    if len(paths) < 2:
        for one in zip(paths, places, strict=True):
            _index_shard(*one)
        return

    console = Console(stderr=True)
    processes = min(len(paths), os.cpu_count() or 1)
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), die_with_parent) as pool:
            try:
                # Not `pool.map`: at a stop it would end calls that the pool's own thread ends too.
                calls = [pool.submit(_index_shard, *one) for one in zip(paths, places, strict=True)]
                hidden = not console.is_terminal
                for call in track(calls, f"indexing {folder}", console=console, disable=hidden):
                    call.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool:
        raise StoreError(
            f"{folder}: a process was killed, perhaps for want of memory; call again to go on with "
            "the next shard"
        ) from None


def _missing(paths: Sequence[Path]) -> int:
    """Gaps in the numbering of shards, folder by folder."""
    numbers: dict[Path, set[int]] = {}
    for path in paths:
        if match := re.search(r"(\d+)$", path.stem):
            numbers.setdefault(path.parent, set()).add(int(match[1]))
    return sum(max(found) - min(found) + 1 - len(found) for found in numbers.values())


def _concatenate(parts: Sequence[Index]) -> Index:
    """One index of all shards; shard numbers are positions in `parts`."""
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Index)
        if field.name not in ("captions", "shard")
    }
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])

    # Captions are one blob of bytes with offsets, which are summed up anew over all parts.
    sizes = np.concatenate([np.diff(part.captions.offsets) for part in parts])
    blob = np.concatenate([part.captions.blob for part in parts])
    return Index(
        shard=shard, **columns, captions=Captions(blob, np.concatenate([[0], np.cumsum(sizes)]))
    )


def _columns(columns: Any) -> Index:
    captions = Captions(columns["caption_bytes"], columns["caption_offsets"])
    return Index(
        **{field.name: columns[field.name] for field in fields(Index) if field.name != "captions"},
        captions=captions,
    )


def _part_path(path: Path, cache: Path) -> Path:
    """Where the index of a shard is kept.

    Its name changes with the shard and with this code.
    """
    # Size and time stand for the content, which would have to be read whole to be hashed.
    status = path.stat()
    key = keyed_digest(CODE, str(path.resolve()), status.st_size, status.st_mtime_ns)
    return cache / f"{key.hex()[:32]}.npz"


def _index_shard(path: Path, part: Path) -> None:
    """Write usable rows of one shard (numbered shard 0), counts of rows by fate and faults of the
    archive to `part`.
    """
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    groups: dict[str, dict[str, Member]] = {}
    for name, member in tar_members(path, faults):
        stem, _, suffix = name.rpartition("/")[2].partition(".")
        group = groups.setdefault(f"{name.rpartition('/')[0]}/{stem}", {})
        if suffix.lower() in group:
            faults["duplicate_name"] += 1
        else:
            group[suffix.lower()] = member

    rows: list[StoreRow] = []
    order: list[int] = []
    with path.open("rb") as file:
        for group in groups.values():
            image = next((group[suffix] for suffix in IMAGE_SUFFIXES if suffix in group), None)
            if image is None and "txt" not in group:
                continue  # not a row: statistics, listings
            counts["listed"] += 1
            counts["obtained"] += image is not None
            try:
                rows.append(_row(file.fileno(), image, group.get("txt")))
            except ImageError as error:
                counts[error.reason] += 1
                continue
            order.append(_list_row(file.fileno(), group.get("json")))

    told = json.dumps(
        {
            "counts": counts,
            "faults": faults,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
    ).encode()

    columns = index_of(rows).arrays() | {
        "order": np.array(order, dtype=np.int64),
        "told": np.frombuffer(told, dtype=np.uint8),
    }

    # Renamed when complete: a killed index leaves no half part.
    partial = part.with_suffix(".partial")
    with partial.open("wb") as out:
        np.savez(out, **columns)  # type: ignore[arg-type]  # numpy's stub takes them for its option
    partial.replace(part)


def _list_row(descriptor: int, listing: Member | None) -> int:
    """The row's place in the list that `python -m repro fetch` downloaded from, or NO_ROW."""
    if listing is None or listing.size > MAX_CAPTION_BYTES:
        return NO_ROW
    try:
        content = json.loads(os.pread(descriptor, listing.size, listing.offset))
    except (ValueError, RecursionError):
        return NO_ROW
    number = content.get("list_row") if isinstance(content, dict) else None
    return number if isinstance(number, int) and 0 <= number < 2**62 else NO_ROW


def _row(descriptor: int, image: Member | None, text: Member | None) -> StoreRow:
    """One row, its image decoded; ImageError with the reason why it cannot be used, bad captions
    included.
    """
    if image is None:
        raise ImageError("no_image")
    if text is None:
        raise ImageError("no_caption")
    # Sizes before contents: what is too large is never read.
    if image.size > MAX_BYTES:
        raise ImageError("too_many_bytes")
    if text.size > MAX_CAPTION_BYTES:
        raise ImageError("caption_too_long")
    try:
        caption = os.pread(descriptor, text.size, text.offset).decode().strip()
    except UnicodeDecodeError:
        raise ImageError("caption_not_utf8") from None
    if not caption or "\0" in caption:
        raise ImageError("caption_with_nul" if caption else "caption_empty")

    data = os.pread(descriptor, image.size, image.offset)
    open_rgb(data)
    image_hash = bytes_hash(data)
    return StoreRow(
        0, image.offset, image.size, pair_key(image_hash, caption), image_hash, NO_LABEL, caption
    )
