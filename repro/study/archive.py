"""The results of a study as one small file, for git: `results/studies/<name>.jsonl.gz`.

One line a run: its record and its rows, without the columns that the record has too. Equal runs
give equal bytes.
"""

import gc
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from repro.files import replace_file, replacing
from repro.ledger import LedgerError, Row, RunRecord, identity_of, rows_text
from repro.runs.published import (
    ARCHIVED,
    RECORD,
    ROWS,
    read_record,
    write_record,
)


class ArchivedRun(NamedTuple):
    """A line of an archive."""

    record: RunRecord
    rows: list[Row]


def write_archive(path: Path, runs: Iterable[tuple[RunRecord, list[Row]]]) -> None:
    """Write the runs in the order of stage, model name and run id.

    An archive of these very runs stays as it is: an older version may have left out fields that
    records have today.
    """
    held = {_place(record): ArchivedRun(record, rows) for record, rows in runs}
    if path.exists() and held == {_place(run.record): run for run in read_archive(path)}:
        return

    lines = []
    for _, (record, rows) in sorted(held.items()):
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


@contextmanager
def _out_of_the_collector() -> Iterator[None]:
    """Keeps what is read from Python's garbage collector, which would look through all of it again
    and again and find nothing: it has no cycles.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def read_archive(path: Path) -> list[ArchivedRun]:
    """Read what `write_archive` wrote; LedgerError names file, line and what is wrong.

    The rows of a run must have the hash that is in its record, and no run may stand twice. A
    process reads a file once as long as path, size, modification time and inode stay.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        study = path.name.partition(".")[0]
        raise LedgerError(f"{path}: missing; `python -m repro study {study}` makes it") from None
    except OSError as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None
    return list(_runs_in(path, Path.cwd(), state.st_size, state.st_mtime_ns, state.st_ino))


@cache
@_out_of_the_collector()
def _runs_in(path: Path, *_: object) -> tuple[ArchivedRun, ...]:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, MemoryError, zlib.error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None
    runs: dict[tuple[str, str, str], ArchivedRun] = {}
    for number, line in enumerate(lines, start=1):
        run = _read_line(line, f"{path}:{number}")
        place = _place(run.record)
        if place in runs:
            raise LedgerError(f"{path}:{number}: {'/'.join(place)} stands twice")
        runs[place] = run
    return tuple(runs.values())


def _place(record: RunRecord) -> tuple[str, str, str]:
    return record.spec.stage, record.spec.model_name, record.spec.run_id


def _read_line(line: str, where: str) -> ArchivedRun:
    try:
        item = json.loads(line)
        record = RunRecord.model_validate(item["run"])
        names = identity_of(record.spec, record.fingerprint)
        rows = [Row.model_validate({**row, **names}) for row in item["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = " ".join(repr(error).split())
        raise LedgerError(f"{where}: not a run of this version ({problem})") from None

    content = hashlib.sha256(rows_text(rows)).hexdigest()
    if rows and record.files.get(ROWS) != content:
        raise LedgerError(
            f"{where}: its rows do not have the hash in its record; `git checkout` takes the "
            "archive from git again; deleted, `dvc repro` makes it again"
        )
    return ArchivedRun(record, rows)


def unpack_run(record: RunRecord, rows: list[Row], folder: Path) -> None:
    """Write an archived run as a published one, unless the folder holds this one or a run that was
    made here.
    """
    with suppress(LedgerError):
        there = read_record(folder / RECORD)
        if there.files == record.files or not (folder / ARCHIVED).exists():
            return
    with replacing(folder) as partial:
        (partial / ROWS).write_bytes(rows_text(rows))
        (partial / ARCHIVED).touch()
        write_record(partial / RECORD, record)
