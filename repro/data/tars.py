"""Index of webdataset shards that somebody else wrote, such as img2dataset's: every row checked, nothing extracted.

Each image is decoded once, so that training meets no surprise; what cannot be used is counted by reason. Names in the
archives only group members into rows and never touch the disk.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from repro.data.images import MAX_BYTES, ImageError, content_hash, open_rgb
from repro.data.shards import NO_LABEL, Captions, Index, Row, Shard, StoreError, hash_file, index_of, pair_key

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_CAPTION_BYTES = 2**16


@dataclass
class Accounting:
    """What became of the rows of a set of shards: listed = decoded + all that was dropped; duplicates are among the decoded."""

    listed: int
    obtained: int
    """Rows with an image file."""
    decoded: int
    duplicate: int
    dropped: Counter[str]
    shards: Counter[str]
    """Shards read, missing from the numbering, and faulty by reason."""


def index_shards(folder: Path) -> tuple[Index, list[Shard], Accounting]:
    """Rows of all `*.tar` files in `folder`, by file name, without repeated pairs; shard paths are relative to `folder`.

    Raises StoreError if there is no usable row.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise StoreError(f"{folder}: no .tar files")
    console = Console(stderr=True)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        results: Iterable[Any] = pool.map(_index_shard, paths)
        if console.is_terminal:
            results = track(results, f"indexing {folder}", total=len(paths), console=console)
        parts, counts, faults = zip(*results, strict=True)
    rows = [part for part in parts if len(part)]
    if not rows:
        raise StoreError(f"{folder}: no usable row in {len(paths)} shards ({dict(sum(counts, Counter()) + sum(faults, Counter()))})")
    shards = [Shard(path.name, path.stat().st_size, hash_file(path), len(part)) for path, part in zip(paths, parts, strict=True)]
    index = _concatenate(parts)
    _, first = np.unique(np.ascontiguousarray(index.keys).view("V16").ravel(), return_index=True)
    distinct = index.take(np.sort(first))
    dropped: Counter[str] = sum(counts, Counter())
    listed, obtained = dropped.pop("listed"), dropped.pop("obtained", 0)
    accounting = Accounting(
        listed=listed,
        obtained=obtained,
        decoded=len(index),
        duplicate=len(index) - len(distinct),
        dropped=dropped,
        shards=Counter(read=len(paths), missing=_missing(paths)) + sum(faults, Counter()),
    )
    return distinct, shards, accounting


def _missing(paths: Sequence[Path]) -> int:
    """Gaps in the numbering of shards."""
    numbers = {int(match[1]) for path in paths if (match := re.search(r"(\d+)$", path.stem))}
    return max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0


def _concatenate(parts: Sequence[Index]) -> Index:
    """One index of all shards; shard numbers are positions in `parts`."""
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Index)
        if field.name not in ("captions", "shard")
    }
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    sizes = np.concatenate([np.diff(part.captions.offsets) for part in parts])
    blob = np.concatenate([part.captions.blob for part in parts])
    return Index(shard=shard, **columns, captions=Captions(blob, np.concatenate([[0], np.cumsum(sizes)])))


def _index_shard(path: Path) -> tuple[Index, Counter[str], Counter[str]]:
    """Usable rows of one shard (numbered shard 0), counts of rows by fate, faults of the archive."""
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in _members(path, faults):
        stem, _, suffix = member.name.rpartition("/")[2].partition(".")
        group = groups.setdefault(f"{member.name.rpartition('/')[0]}/{stem}", {})
        if suffix.lower() in group:
            faults["duplicate_name"] += 1
        else:
            group[suffix.lower()] = member
    rows = []
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
    return index_of(rows), counts, faults


def _members(path: Path, faults: Counter[str]) -> Iterator[tarfile.TarInfo]:
    """Plain files of an uncompressed tar that lie wholly inside it; all else is counted in `faults`."""
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    except (tarfile.TarError, OSError):
        faults["not_a_tar"] += 1
        return
    with archive, path.open("rb") as file:
        size = path.stat().st_size
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, ValueError):  # ends inside a member, or its header is nonsense
                faults["truncated"] += 1
                return
            if member is None:
                break
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                faults["not_a_file"] += 1
            elif member.name.startswith("/") or ".." in member.name.split("/"):
                faults["unsafe_name"] += 1
            elif member.offset_data + member.size <= size:
                yield member
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
        if end != bytes(tarfile.BLOCKSIZE):
            faults["truncated"] += 1


def _row(descriptor: int, image: tarfile.TarInfo | None, text: tarfile.TarInfo | None) -> Row:
    """One row, its image decoded; ImageError with the reason why it cannot be used, bad captions included."""
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
    image_hash = content_hash(data)
    return Row(0, image.offset_data, image.size, pair_key(image_hash, caption), image_hash, NO_LABEL, caption)
