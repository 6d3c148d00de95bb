"""Published runs: the only writer and reader of results.

A run's folder `results/<profile>/<stage>/<model name>/<run_id>/` holds
- `run.json`, the `RunRecord`, with the SHA-256 of the other file;
- `rows.jsonl`, one `Row` per evaluation in order.

A folder that was unpacked from an archive in git bears the mark `archived`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from repro.files import file_sha256, replace_json, replacing
from repro.ledger import LedgerError, Row, RunRecord, identity_of, pending_rows, rows_text

RECORD, ROWS = "run.json", "rows.jsonl"
ARCHIVED = "archived"
"""Empty file beside rows that came out of an archive."""


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record as JSON."""
    replace_json(path, record.model_dump(mode="json"))


def read_record(path: Path) -> RunRecord:
    """Read a record; LedgerError if it is missing or not a record."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LedgerError(f"{path}: missing") from None
    except ValidationError as error:
        raise LedgerError(f"{path}: {_first(error)}") from None


def export_run(work_dir: Path, record: RunRecord, results_dir: Path) -> Path:
    """Publish a finished run as `results_dir/<run_id>`, replacing an older one; returns the folder.

    The rows get the names of the record's spec: a study and the main graph may share a run under
    names of their own.
    """
    names = identity_of(record.spec, record.fingerprint)
    rows = [row.model_copy(update=names) for row in pending_rows(work_dir)]
    target = results_dir / record.spec.run_id
    with replacing(target) as partial:
        (partial / ROWS).write_bytes(rows_text(rows))
        files = record.files | {ROWS: file_sha256(partial / ROWS)}
        write_record(partial / RECORD, record.model_copy(update={"files": files}))
    return target


def read_run(run_dir: Path) -> tuple[RunRecord, list[Row]]:
    """Read one published run; LedgerError names the file, and the line, of whatever does not fit.

    The rows have the hash that is in the record.
    """
    record, path = read_record(run_dir / RECORD), run_dir / ROWS
    if ROWS in record.files and (not path.is_file() or file_sha256(path) != record.files[ROWS]):
        raise LedgerError(f"{path}: missing, or not the file whose hash is in {RECORD}")

    rows: list[Row] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            raise LedgerError(f"{path}:{number}: {_first(error)}") from None
    return record, rows


def read_results(results_dir: Path) -> Iterator[tuple[Path, RunRecord, list[Row]]]:
    """All published runs below `results_dir` (any depth), in path order."""
    # Not by a glob, which ends where a publication under way renames its folder.
    folders = [Path(folder) for folder, _, files in os.walk(results_dir) if RECORD in files]
    for folder in sorted(folders):
        # A hidden folder is a publication that was cut short.
        if not folder.name.startswith("."):
            record, rows = read_run(folder)
            yield folder, record, rows


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    field = ".".join(map(str, item["loc"])) or "content"
    return f"{field}: {item['msg']} (got {str(item['input'])[:80]!r})"
