"""The user's tar shards (img2dataset, webdataset), read in place: every row is checked.

Each image is decoded once here, and what cannot be used is counted by reason. Nothing is extracted:
names in the archives only group members into rows. The index of a shard is cached as soon as it is
made. After a kill the next call therefore continues with the next shard.
"""

import errno
import json
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.data.images import MAX_BYTES, ImageError, bytes_hash, decoder_version, open_rgb
from repro.data.index import (
    NO_LABEL,
    Index,
    Shard,
    StoreError,
    StoreRow,
    concatenate,
    index_of,
    key_values,
    pair_key,
)
from repro.data.keyed import keyed_digest
from repro.files import file_sha256
from repro.ledger import read_npz
from repro.sources.pool import on_all_cores

CACHE = Path("work/cache/index")
"""Cache of the indices of single shards, relative to the repository."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_CAPTION_BYTES = 2**16


class Part(NamedTuple):
    """What is cached of one shard."""

    rows: Index
    """The usable ones, as of shard number 0."""
    bytes: int
    sha256: str
    counts: dict[str, int]
    """Rows: listed, and by reason those that cannot be used."""
    fault: str
    """`not_a_tar` or `truncated`, which lose an unknown number of rows; empty for a whole tar."""


@dataclass(frozen=True)
class ShardIndex:
    """All usable rows of a set of shards."""

    index: Index
    """By path of the shard and then by name in the shard: the order of the list of addresses that
    img2dataset numbered the shards and names by.
    """
    files: list[Shard]
    rows: NDArray[np.int64]
    """Ascending positions of the distinct pairs, each at its first."""
    listed: int
    dropped: Counter[str]
    """Unusable rows by reason: listed = dropped + len(index)."""
    shards: Counter[str]
    """Number of shards: read, missing in the numbering, faulty by reason."""
    faulty: list[str]
    """The faulty ones, each with its fault."""
    lost: int
    """Estimated rows that broken and missing shards lack; these are not among the listed."""


def tar_files(folder: Path) -> list[Path]:
    """All `*.tar` files in `folder` and below, by path; folders may be links."""
    return sorted(folder / name for name in glob("**/*.tar", root_dir=folder, recursive=True))


def index_shards(folder: Path, cache: Path = CACHE) -> ShardIndex:
    """Index of all shards in `folder` and below, by path.

    Raises StoreError if there is no usable row, and for a shard that cannot be read.
    """
    paths = tar_files(folder)
    if not paths:
        raise StoreError(f"{folder}: no .tar files")
    # `work/cache` may be a link to a local disk where its folder is not there yet.
    cache.resolve().mkdir(parents=True, exist_ok=True)
    cached = [(path, cache / _cache_name(path)) for path in paths]
    new = [(path, part) for path, part in cached if not part.exists()]
    list(on_all_cores(index_shard, new, f"indexing {folder}"))
    parts = [_read_part(part) for _, part in cached]

    counts = Counter[str]()
    for part in parts:
        counts.update(part.counts)
    shards = Counter(part.fault for part in parts if part.fault)
    shards += Counter(read=len(paths), missing=_missing(paths))
    lengths = [len(part.rows) for part in parts]
    if not any(lengths):
        raise StoreError(
            f"{folder}: no usable row in {len(paths)} shards ({dict(counts + shards)})"
        )

    numbers = np.arange(len(parts), dtype=np.int32)
    rows = concatenate([part.rows for part in parts])
    index = replace(rows, shard=np.repeat(numbers, lengths))
    _, first = np.unique(key_values(index.keys), return_index=True)
    files = [
        Shard(path.relative_to(folder).as_posix(), part.bytes, part.sha256, len(part.rows))
        for path, part in zip(paths, parts, strict=True)
    ]
    return ShardIndex(
        index=index,
        files=files,
        rows=np.sort(first),
        listed=counts.pop("listed"),
        dropped=counts,
        shards=shards,
        faulty=[
            f"{path}: {part.fault}" for path, part in zip(paths, parts, strict=True) if part.fault
        ],
        lost=_lost(parts, shards["missing"]),
    )


def _lost(parts: Sequence[Part], missing: int) -> int:
    """Rows of broken and missing shards, each taken for as large as the usual one."""
    usual = float(np.median([part.counts["listed"] for part in parts]))
    lost = missing * usual
    for part in parts:
        if part.fault:
            lost += max(0.0, usual - part.counts["listed"])
    return round(lost)


def _missing(paths: Sequence[Path]) -> int:
    """Gaps in the numbering of shards, folder by folder."""
    numbers: defaultdict[Path, set[int]] = defaultdict(set)
    for path in paths:
        if match := re.search(r"(\d+)$", path.stem):
            numbers[path.parent].add(int(match[1]))

    missing = 0
    for seen in numbers.values():
        wanted = max(seen) - min(seen) + 1
        missing += wanted - len(seen)
    return missing


def _cache_name(path: Path) -> str:
    # Size and time stand for the content: a hash would read the whole shard.
    code = f"{decoder_version()}, {file_sha256(Path(__file__))}"
    status = path.stat()
    key = keyed_digest(code, str(path.resolve()), status.st_size, status.st_mtime_ns)
    return f"{key.hex()[:32]}.npz"


def _read_part(path: Path) -> Part:
    """What is cached of a shard; reading compares the checksum of each column."""
    try:
        arrays = read_npz(path)
        return Part(Index.of_arrays(arrays), **json.loads(arrays["summary"].tobytes()))
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and call again") from None


def index_shard(paths: tuple[Path, Path]) -> None:
    """Write what is cached of a shard (first path) to a file (second).

    StoreError names a shard that cannot be read.
    """
    path, part = paths
    try:
        rows, counts, fault = _read_shard(path)
    except Exception as error:  # a boundary: among thousands of shards it must be found
        raise StoreError(f"{path}: {type(error).__name__}: {error}") from error

    summary = {
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "counts": counts,
        "fault": fault,
    }
    columns = index_of(rows).arrays()
    columns["summary"] = np.frombuffer(json.dumps(summary).encode(), dtype=np.uint8)
    partial = part.with_suffix(".partial")
    with partial.open("wb") as out:
        np.savez(out, **columns)  # type: ignore[arg-type]  # numpy's stub takes them for its option
    partial.replace(part)


def _read_shard(path: Path) -> tuple[list[StoreRow], Counter[str], str]:
    """Usable rows of a shard, counts by reason, and fault, as in `Part`."""
    members, fault = tar_members(path)
    counts: Counter[str] = Counter(listed=0)
    groups: defaultdict[str, dict[str, tarfile.TarInfo]] = defaultdict(dict)
    for member in members:
        folder, _, file_name = member.name.rpartition("/")
        stem, _, suffix = file_name.partition(".")
        group = groups[f"{folder}/{stem}"]
        suffix = suffix.lower()
        if suffix in IMAGE_SUFFIXES and suffix in group:
            counts.update(listed=1, name_twice=1)
        group.setdefault(suffix, member)

    rows: list[StoreRow] = []
    with path.open("rb") as file:
        # By name: img2dataset writes in the order of arrival, and numbers by the list.
        for _, group in sorted(groups.items()):
            image = next((group[suffix] for suffix in IMAGE_SUFFIXES if suffix in group), None)
            text = group.get("txt")
            if image is None and text is None:
                continue  # no row: statistics, listings
            counts["listed"] += 1
            try:
                rows.append(_row(file.fileno(), image, text))
            except ImageError as error:
                counts[error.reason] += 1
    return rows, counts, fault


def tar_members(path: Path) -> tuple[list[tarfile.TarInfo], str]:
    """Plain files that lie wholly inside an uncompressed tar, and its fault, if it has one.

    OSError where the disk fails, since what is cached of a shard would keep its fault.
    """
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    except (tarfile.TarError, RecursionError):
        # A header that extends the next one is read in it: a long row of them goes too deep.
        return [], "not_a_tar"

    members: list[tarfile.TarInfo] = []
    size = path.stat().st_size
    with archive, path.open("rb") as file:
        try:
            place = 0
            for member in archive:
                # Behind a negative size tarfile would read the same headers again, for ever.
                if archive.offset <= place:
                    return members, "truncated"
                place = archive.offset
                inside = 0 <= member.size <= size - member.offset_data
                if member.isreg() and not member.issparse() and inside:
                    members.append(member)
        except (tarfile.TarError, ValueError, RecursionError):
            # The archive ends inside a member, or the member's header is damaged.
            return members, "truncated"
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A damaged header names a place before the beginning of the file.
            return members, "truncated"

        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
        return members, "" if end == bytes(tarfile.BLOCKSIZE) else "truncated"


def _row(descriptor: int, image: tarfile.TarInfo | None, text: tarfile.TarInfo | None) -> StoreRow:
    """One row; ImageError with the reason if image or caption cannot be used."""
    if image is None or text is None:
        raise ImageError("no_caption" if image else "no_image")
    if image.size > MAX_BYTES:
        raise ImageError("too_many_bytes")
    if text.size > MAX_CAPTION_BYTES:
        raise ImageError("caption_too_long")
    try:
        caption = os.pread(descriptor, text.size, text.offset_data).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ImageError("caption_not_utf8") from None
    if not caption or "\0" in caption:
        raise ImageError("caption_with_nul" if caption else "caption_empty")

    data = os.pread(descriptor, image.size, image.offset_data)
    open_rgb(data)
    image_hash = bytes_hash(data)
    key = pair_key(image_hash, caption)
    return StoreRow(0, image.offset_data, image.size, key, image_hash, NO_LABEL, caption)
