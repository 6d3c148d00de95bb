"""Stores, models and runs of a profile held to the hashes that lie with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from repro.data.index import SHARDS
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
            yield f"{path}: missing"
        elif file_sha256(path) != shard.sha256:
            yield f"{path}: not the file whose hash is in {listed}"


def damaged_models(models: Path) -> Iterator[str]:
    """A line for each file of the models below a folder that is not as its record says."""
    for path in sorted(models.rglob(RECORD)):
        try:
            record = read_record(path)
        except LedgerError as error:
            yield str(error)
            continue
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
