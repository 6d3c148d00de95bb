"""Stores, models and runs of a profile held to the hashes that lie with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from repro.data.index import SHARDS, StoreError
from repro.data.sums import SUMS, read_sums
from repro.files import file_sha256
from repro.ledger import LedgerError
from repro.runs.deliver import WEIGHTS
from repro.runs.published import RECORD, read_record, read_run


def damaged_stores(folders: list[Path]) -> Iterator[str]:
    """A line for each shard below these folders that is not as the list of its store says."""
    for folder in folders:
        for listed in sorted(folder.rglob("shards.json")):
            yield from _damaged_shards(listed)


def _damaged_shards(listed: Path) -> Iterator[str]:
    try:
        shards = SHARDS.validate_json(listed.read_bytes())
    except ValidationError as error:
        yield f"{listed}: {error.errors()[0]['msg']}"
        return

    for shard in shards:
        # A poisoned store names shards of the data beside it, and either may name a user's own.
        path = Path(os.path.normpath(listed.parent / shard.path))
        if not path.is_file():
            yield f"{path}: missing, but named in {listed}"
        elif file_sha256(path) != shard.sha256:
            yield f"{path}: not the file whose hash is in {listed}"


def damaged_folders(folders: list[Path]) -> Iterator[str]:
    """A line for each file below these folders that is not as the list beside it says.

    Every file must be listed. Where file and list differ both are named: either may be damaged.
    """
    for folder in filter(Path.is_dir, folders):
        inner = (path for path in folder.rglob("*") if path.is_dir())
        for listed in [folder, *sorted(inner)]:
            yield from _unlike_list(listed)


def _unlike_list(folder: Path) -> Iterator[str]:
    listing = folder / SUMS
    paths = (path for path in folder.iterdir() if path.is_file())
    # Hidden files are not part of what was written.
    files = {path.name for path in paths if path.name != SUMS and path.name[0] != "."}
    try:
        hashes = read_sums(folder)
    except StoreError:
        yield f"{listing}: not a list of hashes"
        return

    # The list is read leniently, so its bytes are compared too.
    written = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    if listing.is_file() and listing.read_bytes() != written.encode():
        yield f"{listing}: not as it was written"
    for name in sorted(files | hashes.keys()):
        path = folder / name
        if name not in hashes:
            yield f"{listing}: does not name {path}"
        elif name not in files:
            yield f"{path}: missing, but named in {listing}"
        elif file_sha256(path) != hashes[name]:
            yield f"{path}: not the file whose hash is in {listing}"
            yield f"{listing}: does not have the hash of {path}"


def damaged_models(models: Path) -> Iterator[str]:
    """A line for each file of the models below a folder that is not as its record says."""
    for path in sorted(models.rglob(RECORD)):
        try:
            record = read_record(path)
        except LedgerError as error:
            yield str(error)
            continue

        # Records from before there were hashes name none: then only presence can be checked.
        for name in WEIGHTS:
            weights = path.parent / name
            told = record.files.get(name)
            if not weights.is_file():
                yield f"{weights}: missing"
            elif told is not None and file_sha256(weights) != told:
                yield f"{weights}: not the file whose hash is in {path}"


def damaged_runs(results: Path) -> Iterator[str]:
    """A line for each run below a folder that is not whole."""
    for path in sorted(results.rglob(RECORD)):
        try:
            read_run(path.parent)
        except LedgerError as error:
            yield str(error)
