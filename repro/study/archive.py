"""The results of a study as one small file, for git: `results/studies/<name>.jsonl.gz`.

One line a run: its record and its rows, without the columns that the record has too and without the
bits. Equal runs give equal bytes. git or dvc.lock tells whether the file is the one that was made
(`archive_problem`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

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
    lines = []
    for record, rows in sorted(runs, key=_order):
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


def _order(run: ArchivedRun) -> tuple[str, str, str]:
    spec = run[0].spec
    return spec.stage, spec.cell, spec.run_id


def read_archive(path: Path) -> list[ArchivedRun]:
    """Read what `write_archive` wrote; LedgerError names file, line and what is wrong.

    The rows of a run must have the hash that is in its record.
    """
    study = path.name.partition(".")[0]
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except FileNotFoundError:
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
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise LedgerError(f"{where}: {field}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"{where}: not a run ({error!r})") from None

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
    """What is wrong with the archive of a study, in a line; None if nothing is known against it.

    dvc.lock decides, since a stage may have made results that are not committed yet; git does where
    dvc.lock does not name the archive.
    """
    archive = archive_of(name)
    locked = _locked_md5(name, root / "dvc.lock")
    if locked is not None:
        content = hashlib.md5((root / archive).read_bytes(), usedforsecurity=False).hexdigest()
        source = f"dvc.lock (MD5 {locked}, here {content})"
    else:
        # Both are git's own object names, of the file as it is.
        locked = _git(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{archive.as_posix()}")
        content = _git(root, "hash-object", "--no-filters", archive.as_posix())
        source = f"git (object {locked}, here {content})"
    if not locked or not content or locked == content:
        return None
    return (
        f"{archive}: not the file that is known to {source}. `git checkout -- {archive}` takes "
        f"the committed one; deleted, `dvc repro study@{name}` makes it again; results that you "
        f"made yourself are accepted with `dvc commit study@{name}`"
    )


def _locked_md5(name: str, lock: Path) -> str | None:
    """MD5 of the archive as output of its stage in dvc.lock.

    Read as text: a YAML parser takes seconds for this file.
    """
    if not lock.is_file():
        return None
    text = lock.read_text(encoding="utf-8")
    stage = re.search(rf"^  study@{re.escape(name)}:\n(.*?)(?=^  \S|\Z)", text, re.M | re.S)
    # Only outputs: the archive could also be named among the dependencies.
    outs = stage[1].partition("\n    outs:\n")[2] if stage else ""
    path = re.escape(archive_of(name).as_posix())
    md5 = re.search(rf"- path: {path}\n(?:      (?!- ).*\n)*?      md5: ([0-9a-f]{{32}})", outs)
    return md5[1] if md5 else None


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where it is not there, or knows nothing."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
