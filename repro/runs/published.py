"""Published runs: the only writer and reader of results.

A run's folder `results/<profile>/<stage>/<model name>/<run_id>/` holds
- `run.json`, the `RunRecord`, with the SHA-256 of the other two files;
- `rows.jsonl`, one `Row` per evaluation in order;
- `bits.npz`, for each row one bit per evaluation image, packed: `correct` and `attacked`, shape
  (rows, bytes), and `is_target` (bytes,), the images whose label is the target class. Images that
  an evaluation did not see have zeros.

A folder that was unpacked from an archive in git bears the mark `archived` and has no bits; its
record keeps their hash.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from repro.files import file_sha256, replace_json, replacing
from repro.ledger import (
    LedgerError,
    Row,
    RunRecord,
    count_bits,
    decode_bits,
    identity_of,
    pending_rows,
    read_npz,
)

RECORD, ROWS, BITS = "run.json", "rows.jsonl", "bits.npz"
ARCHIVED = "archived"
"""Empty file beside rows that came out of an archive, without their bits."""


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
    pending = pending_rows(work_dir)
    names = identity_of(record.spec, record.fingerprint)
    rows = [Row.model_validate({**item["row"], **names}) for item in pending]
    target = results_dir / record.spec.run_id
    with replacing(target) as partial:
        (partial / ROWS).write_bytes(rows_text(rows))
        if pending:
            np.savez_compressed(
                partial / BITS,
                correct=np.stack([decode_bits(item["correct"]) for item in pending]),
                attacked=np.stack([decode_bits(item["attacked"]) for item in pending]),
                # The same images at every evaluation.
                is_target=decode_bits(pending[0]["is_target"]),
            )
        files = {path.name: file_sha256(path) for path in partial.iterdir()}
        record = record.model_copy(update={"files": record.files | files})
        write_record(partial / RECORD, record)
    return target


def rows_text(rows: Iterable[Row]) -> bytes:
    """Content of `rows.jsonl`."""
    return "".join(row.model_dump_json() + "\n" for row in rows).encode()


def read_run(run_dir: Path) -> tuple[RunRecord, list[Row]]:
    """Read one published run; LedgerError names the file, and the line, of whatever does not fit.

    Checked are the hashes in the record, and that the counts follow from the bits.
    """
    record = read_record(run_dir / RECORD)
    archived = (run_dir / ARCHIVED).exists()
    for name in (ROWS,) if archived else (ROWS, BITS):
        path = run_dir / name
        if name in record.files and (not path.is_file() or file_sha256(path) != record.files[name]):
            raise LedgerError(f"{path}: missing, or not the file whose hash is in {RECORD}")

    rows: list[Row] = []
    lines = (run_dir / ROWS).read_bytes().splitlines() if (run_dir / ROWS).exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            raise LedgerError(f"{run_dir / ROWS}:{number}: {_first(error)}") from None
    if rows and not archived:
        _check_counts(run_dir, rows)
    return record, rows


def _check_counts(run_dir: Path, rows: list[Row]) -> None:
    """LedgerError if a row counts other images than its bits mark."""
    bits = read_bits(run_dir, rows[0].num_images)
    if len(bits["correct"]) != len(rows):
        raise LedgerError(
            f"{run_dir / BITS}: bits of {len(bits['correct'])} rows "
            f"(allowed: {len(rows)}, as in {ROWS})"
        )
    for index, row in enumerate(rows):
        counts = count_bits(bits["correct"][index], bits["attacked"][index], bits["is_target"])
        # Bits do not tell which images a partial evaluation saw.
        if row.num_images < rows[0].num_images:
            del counts["num_target"]
        for name, count in counts.items():
            if getattr(row, name) != count:
                raise LedgerError(
                    f"{run_dir / ROWS}:{index + 1}: {name}: {getattr(row, name)} "
                    f"(allowed: {count}, as counted from {BITS})"
                )


def read_results(results_dir: Path) -> Iterator[tuple[Path, RunRecord, list[Row]]]:
    """All published runs below `results_dir` (any depth), in path order."""
    # Not by a glob, which ends where a publication under way renames its folder.
    folders = [Path(folder) for folder, _, files in os.walk(results_dir) if RECORD in files]
    for folder in sorted(folders):
        # A hidden folder is a publication that was cut short.
        if not folder.name.startswith("."):
            record, rows = read_run(folder)
            yield folder, record, rows


def read_bits(run_dir: Path, num_images: int) -> dict[str, NDArray[np.bool_]]:
    """Per-image outcomes of a run.

    `correct` and `attacked` (rows, num_images), `is_target` (num_images,).
    """
    path = run_dir / BITS
    packed = read_npz(path)

    # Eight images a byte, rounded up; numpy would fill what is missing with zeros.
    row_bytes = -(-num_images // 8)
    for name, array in packed.items():
        if array.shape[-1] != row_bytes:
            raise LedgerError(f"{path}: {name}: {array.shape[-1]} bytes a row (not {row_bytes})")
    return {
        name: np.unpackbits(array, axis=-1, count=num_images).astype(bool)
        for name, array in packed.items()
    }


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    field = ".".join(map(str, item["loc"])) or "content"
    return f"{field}: {item['msg']} (got {str(item['input'])[:80]!r})"
