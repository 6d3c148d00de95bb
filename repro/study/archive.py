"""The results of a study as one small file, for git: `results/studies/<name>.jsonl.gz`.

One line a run: its record and its rows, without the columns that the record has too and without the
bits. Equal runs give equal bytes, and dvc.lock has their hash (`archive_problem`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

from repro.files import replace_file
from repro.ledger import LedgerError, Row, RunRecord, identity_of
from repro.runs.published import (
    ARCHIVED,
    RECORD,
    ROWS,
    check_row,
    read_record,
    rows_text,
    write_record,
)
from repro.study.spec import archive_of

ArchivedRun = tuple[RunRecord, list[Row]]


def write_archive(path: Path, runs: Iterable[ArchivedRun]) -> None:
    """Write the runs in the order of stage, cell and run id."""

    def order(run: ArchivedRun) -> tuple[str, str, str]:
        return run[0].spec.stage, run[0].spec.cell, run[0].spec.run_id

    lines = []
    for record, rows in sorted(runs, key=order):
        # Columns that name the run stand once, in its record.
        names = set(identity_of(record.spec, record.fingerprint))
        content = {
            "run": record.model_dump(mode="json"),
            "rows": [row.model_dump(mode="json", exclude=names) for row in rows],
        }
        lines.append(json.dumps(content) + "\n")

    # No time in the header of gzip: equal runs give equal bytes.
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, gzip.compress("".join(lines).encode(), mtime=0))


def read_archive(path: Path) -> list[ArchivedRun]:
    """Read what `write_archive` wrote; LedgerError names file, line and what is wrong.

    The rows of a run must have the hash that is in its record.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except FileNotFoundError:
        study = path.name.partition(".")[0]
        raise LedgerError(f"{path}: missing; `python -m repro study {study}` makes it") from None
    except (OSError, EOFError, MemoryError, zlib.error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None
    return [_read_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _read_line(line: str, where: str) -> ArchivedRun:
    try:
        item = json.loads(line)
        if "sha256" in item:
            raise LedgerError(f"{where}: of an older version; convert it with tools/rekey.py")
        record = RunRecord.model_validate(item["run"])
        names = identity_of(record.spec, record.fingerprint)
        rows = [Row.model_validate({**row, **names}) for row in item["rows"]]
    except LedgerError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"{where}: not a run ({' '.join(repr(error).split())})") from None

    for row in rows:
        check_row(row, record, where)
    content = hashlib.sha256(rows_text(rows)).hexdigest()
    if record.files.get(ROWS, content) != content:
        raise LedgerError(
            f"{where}: its rows do not have the hash in its record; `git checkout` takes the "
            "archive from git again; deleted, `dvc repro` makes it again"
        )
    return record, rows


def unpack_run(record: RunRecord, rows: list[Row], folder: Path) -> None:
    """Write an archived run as a published one without bits, unless the folder holds a run."""
    try:
        read_record(folder / RECORD)
    except LedgerError:
        # The record comes last: a folder that has one is whole.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        replace_file(folder / ROWS, rows_text(rows))
        replace_file(folder / ARCHIVED, b"")
        write_record(folder / RECORD, record)


def archive_problem(name: str, root: Path = Path()) -> str | None:
    """What is wrong with the archive of a study by dvc.lock, in a line; None if it is as locked, or
    not named there.
    """
    archive, lock = archive_of(name), root / "dvc.lock"
    # Read as text, since a YAML parser takes seconds for this file; of the stage only the outputs.
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    stage = re.search(rf"^  study@{re.escape(name)}:\n(.*?)(?=^  \S|\Z)", text, re.M | re.S)
    outs = stage[1].partition("\n    outs:\n")[2] if stage else ""
    path = re.escape(archive.as_posix())
    locked = re.search(rf"- path: {path}\n(?:      (?!- ).*\n)*?      md5: ([0-9a-f]{{32}})", outs)
    md5 = hashlib.md5((root / archive).read_bytes(), usedforsecurity=False).hexdigest()
    if not locked or locked[1] == md5:
        return None
    return (
        f"{archive}: not the file that is known to dvc.lock (MD5 {locked[1]}, here {md5}). "
        f"`git checkout -- {archive}` takes the committed one; deleted, `dvc repro study@{name}` "
        f"makes it again; results that you made yourself are accepted with "
        f"`dvc commit study@{name}`"
    )
