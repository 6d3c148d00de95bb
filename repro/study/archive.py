"""The ledger of a study as one small file, for git: `results/studies/<name>.jsonl.gz`.

One line a run: its record and its rows, without the columns that the record tells and without the
bits. Equal runs give equal bytes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from repro.files import replace_file
from repro.ledger import LedgerError, Row, RunRecord, identity_of
from repro.runs.published import ARCHIVED, check_row, write_record

Runs = list[tuple[RunRecord, list[Row]]]


def write_archive(path: Path, runs: Iterable[tuple[RunRecord, list[Row]]]) -> None:
    """Write the runs in the order of stage, cell and run id."""
    lines = []
    for record, rows in sorted(
        runs, key=lambda item: (item[0].spec.stage, item[0].spec.cell, item[0].spec.run_id)
    ):
        told = set(identity_of(record.spec, record.fingerprint))
        shown = [row.model_dump(mode="json", exclude=told) for row in rows]
        lines.append(json.dumps({"run": record.model_dump(mode="json"), "rows": shown}))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def read_archive(path: Path) -> Runs:
    """Read what `write_archive` wrote; LedgerError names file, line and what is wrong."""
    try:
        content = gzip.decompress(path.read_bytes()).decode()
    except FileNotFoundError:
        raise LedgerError(
            f"{path}: missing; `python -m repro study {path.name.partition('.')[0]}` makes it"
        ) from None
    except (OSError, EOFError, MemoryError, zlib.error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None
    runs: Runs = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            item = json.loads(line)
            record = RunRecord.model_validate(item["run"])
            rows = [
                Row.model_validate({**row, **identity_of(record.spec, record.fingerprint)})
                for row in item["rows"]
            ]
        except ValidationError as error:
            first = error.errors()[0]
            raise LedgerError(
                f"{path}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LedgerError(f"{path}:{number}: not a run ({error!r})") from None
        for row in rows:
            check_row(row, record, f"{path}:{number}")
        runs.append((record, rows))
    return runs


def unpack_run(record: RunRecord, rows: list[Row], folder: Path) -> None:
    """Write an archived run as a published one without bits, unless the folder holds a run."""
    if not (folder / "run.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(
            folder / "rows.jsonl", "".join(row.model_dump_json() + "\n" for row in rows).encode()
        )
        replace_file(folder / ARCHIVED, b"")
        write_record(folder / "run.json", record)
