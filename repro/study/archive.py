"""The ledger of a study as one small file, for git: `results/studies/<name>.jsonl.gz`.

One line a run: its record and its rows, without the columns that the record tells and without the
bits, and a hash of both. The record tells the hashes of the rows and bits that the run handed on.
Where the bits were at hand, a line also has the rows' counts over the validation images
(`repro.evaluate.split`). Equal runs give equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from pydantic import ValidationError

from repro.files import replace_file
from repro.ledger import LedgerError, Row, RunRecord, identity_of
from repro.runs.published import ARCHIVED, RECORD, ROWS, check_row, write_record

REMEDY = "`git checkout` takes it from git again; else delete it, and `dvc repro` makes it again"
ArchivedRun = tuple[RunRecord, list[Row]]


class ValidationCounts(TypedDict):
    """What a run's rows count over the validation images alone; the rest of a row is the test
    part's.
    """

    num_images: int
    num_target: int
    num_correct: list[int]
    """One number a row, as in the next two."""
    num_attacked: list[int]
    num_target_attacked: list[int]


def write_archive(
    path: Path,
    runs: Iterable[ArchivedRun],
    validation: Mapping[str, ValidationCounts] | None = None,
) -> None:
    """Write the runs in the order of stage, cell and run id; `validation` by fingerprint."""
    lines = []
    for record, rows in sorted(runs, key=lambda item: _place(item[0])):
        # Columns that name the run stand once, in its record.
        told = set(identity_of(record.spec, record.fingerprint))
        shown = [row.model_dump(mode="json", exclude=told) for row in rows]
        told_run = record.model_dump(mode="json")
        content: dict[str, Any] = {
            "run": told_run,
            "rows": shown,
            "sha256": _line_hash(told_run, shown),
        }
        if validation and record.fingerprint in validation:
            content["validation"] = validation[record.fingerprint]
        lines.append(json.dumps(content) + "\n")

    # No time in the header of gzip: equal runs give equal bytes.
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, gzip.compress("".join(lines).encode(), mtime=0))


def read_archive(path: Path) -> list[ArchivedRun]:
    """Read what `write_archive` wrote; LedgerError names file, line and what is wrong.

    Checked are the hash of every line, and that its rows are those whose hash the run's record
    tells. Archives from before there were hashes have neither.
    """
    return [
        _read_line(line, f"{path}:{number}") for number, line in enumerate(_lines(path), start=1)
    ]


def read_validation(path: Path) -> dict[str, ValidationCounts]:
    """The counts over validation images of an archive's runs that have them, by fingerprint."""
    items = [json.loads(line) for line in _lines(path)]
    return {
        item["run"]["fingerprint"]: item["validation"] for item in items if "validation" in item
    }


def _lines(path: Path) -> list[str]:
    study = path.name.partition(".")[0]
    try:
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    except FileNotFoundError:
        raise LedgerError(f"{path}: missing; `python -m repro study {study}` makes it") from None
    except (OSError, EOFError, MemoryError, zlib.error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None


def _read_line(line: str, where: str) -> ArchivedRun:
    try:
        item = json.loads(line)
        record = RunRecord.model_validate(item["run"])
        names = identity_of(record.spec, record.fingerprint)
        rows = [Row.model_validate({**row, **names}) for row in item["rows"]]
        told = item.get("sha256")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise LedgerError(f"{where}: {field}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"{where}: not a run ({error!r})") from None

    for row in rows:
        check_row(row, record, where)
    if told is not None and told != _line_hash(item["run"], item["rows"]):
        raise LedgerError(f"{where}: changed after it was written; {REMEDY}")
    if ROWS in record.files and record.files[ROWS] != _rows_hash(rows):
        raise LedgerError(f"{where}: rows are not those that the run handed on; {REMEDY}")
    return record, rows


def _place(record: RunRecord) -> tuple[str, str, str]:
    return record.spec.stage, record.spec.cell, record.spec.run_id


def _line_hash(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """SHA-256 of a line's content."""
    return hashlib.sha256(json.dumps([run, rows]).encode()).hexdigest()


def _rows_text(rows: Iterable[Row]) -> bytes:
    """The `rows.jsonl` that a run published."""
    return "".join(row.model_dump_json() + "\n" for row in rows).encode()


def _rows_hash(rows: Iterable[Row]) -> str:
    return hashlib.sha256(_rows_text(rows)).hexdigest()


def unpack_run(record: RunRecord, rows: list[Row], folder: Path) -> None:
    """Write an archived run as a published one without bits, unless the folder holds a run."""
    # The record comes last: a folder that has one is whole.
    if not (folder / RECORD).exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / ROWS, _rows_text(rows))
        replace_file(folder / ARCHIVED, b"")
        write_record(folder / RECORD, record)
