"""Delivery of finished runs from the work folder: results, and models after pre-training, each in
one rename.

Files of the work folder are checked against the hashes in the worker's outcome, and a published run
against its own record. What is damaged counts as absent and is made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.files import file_sha256, held, replace_folder
from repro.ledger import LedgerError, Row, RunRecord, pending_rows
from repro.runs.layout import WEIGHTS, content_hash, folder_hash, model_dir, results_dir
from repro.runs.published import check_complete, export_run, read_record, read_run, write_record
from repro.runs.run import Run
from repro.spec import RunSpec


def save_record(run: Run, record: RunRecord) -> None:
    """Mark the run as ended; the driver publishes it."""
    write_record(run.work_dir / "record.json", record)


def deliver(run: Run, results: Path) -> bool:
    """Publish the run if it has ended: its results, and its model after pre-training.

    A run whose files are not those in its record is published as failed.
    """
    # Another driver may publish the same run.
    with held(run.work_dir / "publish.lock", wait=True):
        record = run.finished()
        if record is None:
            return False
        if record.status != "failed":
            try:
                check_work(run, record)
            except LedgerError as error:
                forget(run)
                update = {"status": "failed", "reason": str(error), "files": {}, "model_hash": ""}
                record = record.model_copy(update=update)
                save_record(run, record)

        # It may have been made under another name.
        record = record.model_copy(update={"spec": run.spec})

        # The model's hash is the input of the cleaning runs.
        if makes_model(record):
            weights = {name: record.files[name] for name in WEIGHTS}
            record = record.model_copy(update={"model_hash": folder_hash(weights)})
            with _named(model_dir(run.spec)):
                _deliver_model(run, record)

        folder = results_dir(run.spec, results)
        with _named(folder):
            export_run(run.work_dir, record, folder)
    return True


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Have an error name the folder where it names no file, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from None


def makes_model(record: RunRecord) -> bool:
    """Whether the run leaves a model that others start from."""
    return record.spec.stage == "pretrain" and record.status != "failed"


def check_work(run: Run, record: RunRecord) -> None:
    """LedgerError unless the work folder holds the files of the ended run's record."""
    for name in ("rows.jsonl", *(WEIGHTS if makes_model(record) else ())):
        path = run.work_dir / name
        if not path.is_file():
            raise LedgerError(f"{path}: missing")
        if file_sha256(path) != record.files.get(name):
            raise LedgerError(f"{path}: not the file that the run left")

    rows = [Row.model_validate(item["row"]) for item in pending_rows(run.work_dir)]
    check_complete(record, rows, str(run.work_dir / "rows.jsonl"))


def _deliver_model(run: Run, record: RunRecord) -> None:
    """Copy the weights to the folder of the model, with a record of their hashes alone."""
    # Built beside its place and then renamed: no run can start from half a model.
    target = model_dir(run.spec)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    weights = {name: record.files[name] for name in WEIGHTS}
    for name, content in weights.items():
        shutil.copyfile(run.work_dir / name, partial / name)
        if file_sha256(partial / name) != content:
            raise LedgerError(f"{partial / name}: the copy differs from {run.work_dir / name}")
    write_record(partial / "run.json", record.model_copy(update={"files": weights}))
    replace_folder(target, partial)


def forget(run: Run) -> None:
    """Drop the end of a run, so that it is made again."""
    for name in ("record.json", "outcome.json", "rows.jsonl", *WEIGHTS):
        (run.work_dir / name).unlink(missing_ok=True)


def reopen(run: Run) -> None:
    """Before a start: drop an end that cannot be published.

    A failed run goes on from its last checkpoint, a damaged one is made again; a line says so.
    """
    record = run.finished()
    if record is None:
        return
    if record.status == "failed":
        (run.work_dir / "record.json").unlink()
        return
    try:
        check_work(run, record)
    except LedgerError as error:
        print(f"{run.name}: {error}; it is made again", flush=True)
        forget(run)


def is_delivered(run: Run, results: Path, models: bool = True) -> bool:
    """Whether the run's results are published and whole, and with `models` the model that it made
    too.

    Reads only. A line names what is published under the run's name and damaged.
    """
    folder = results_dir(run.spec, results) / run.spec.run_id
    if not (folder / "run.json").exists():
        return False
    try:
        record, rows = read_run(folder)
        if record.fingerprint != run.fingerprint or record.status == "failed":
            return False
        if not record.files:
            raise LedgerError(f"{folder / 'run.json'}: files: no hashes of the run's files")
        check_complete(record, rows, str(folder / "rows.jsonl"))
        if models and run.spec.stage == "pretrain":
            check_published_model(record, model_dir(run.spec))
    except LedgerError as error:
        print(f"{run.name}: {error}; it is published again", flush=True)
        return False
    return True


def check_published_model(record: RunRecord, folder: Path) -> None:
    """LedgerError unless the folder holds the model that the run of the record made."""
    made = read_record(folder / "run.json")
    if made.fingerprint != record.fingerprint:
        raise LedgerError(f"{folder}: holds the model of another run ({made.fingerprint})")
    if not record.model_hash or content_hash(folder) != record.model_hash:
        raise LedgerError(f"{folder}: not the model that the run made")


def refresh(run: Run, results: Path) -> None:
    """Update the record of a delivered run in the fields that only metrics depend on."""
    path = results_dir(run.spec, results) / run.spec.run_id / "run.json"
    record = read_record(path)
    if record.spec != run.spec:
        write_record(path, record.model_copy(update={"spec": run.spec}))


def prune(specs: list[RunSpec], results: Path) -> None:
    """Remove published runs of these cells and variants that the specifications no longer name."""
    known = {results_dir(spec, results) / spec.run_id for spec in specs}
    # Models lie elsewhere than results, and bear a run.json of their own.
    known |= {model_dir(spec) for spec in specs if spec.stage == "pretrain"}
    variants = {(spec.variant, spec.poisoned) for spec in specs}
    for folder in {path.parent for path in known}:
        for path in sorted(folder.glob("*/run.json")):
            if path.parent in known:
                continue
            try:
                spec = read_record(path).spec
            except LedgerError:
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            # Runs of other variants are not for these specifications to remove.
            if (spec.variant, spec.poisoned) in variants:
                shutil.rmtree(path.parent, ignore_errors=True)
