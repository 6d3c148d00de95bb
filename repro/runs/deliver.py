"""Delivery of finished runs from the work folder: results, and models after pre-training, each in
one rename. A published run that is not as its record says counts as absent and is made again.
"""

import shutil
from pathlib import Path

from repro.files import held, replace_file, replacing
from repro.ledger import CLEANED, LedgerError, RunOutcome, cleaned_row
from repro.runs.layout import (
    WEIGHTS,
    cleaned_file,
    content_hash,
    folder_hash,
    model_dir,
    results_dir,
)
from repro.runs.published import RECORD, export_run, read_record, read_run, write_record
from repro.runs.run import Run


def save_record(run: Run, outcome: RunOutcome, sacred: str | None = None) -> None:
    """Mark the run as ended; the driver publishes it."""
    write_record(run.work_dir / "record.json", run.record(outcome, sacred))


def save_failure(run: Run, reason: str, attempts: int, sacred: str | None = None) -> None:
    """Mark the run as failed."""
    save_record(run, {"status": "failed", "reason": reason, "attempts": attempts}, sacred)


def deliver(run: Run, results: Path) -> bool:
    """Publish the run if it has ended: its results, and its model after pre-training."""
    # A driver asks for every run several times a second, and a lock takes longer than a look.
    if not run.has_ended:
        return False
    # Another driver may publish the same run.
    with held(run.work_dir / "publish.lock", wait=True):
        if not (record := run.finished()):
            return False

        # What was made anew, and failed, leaves what was there.
        if record.status == "failed" and is_delivered(run, results):
            return True
        # It may have been made under another name.
        record = record.model_copy(update={"spec": run.spec})
        worked = record.status != "failed"
        if worked and run.spec.stage == "pretrain":
            weights = {name: record.files[name] for name in WEIGHTS}
            # The model's hash is the input of the cleaning runs.
            record = record.model_copy(update={"model_hash": folder_hash(weights)})
            with replacing(model_dir(run.spec)) as partial:
                for name in weights:
                    shutil.copyfile(run.work_dir / name, partial / name)
                write_record(partial / RECORD, record.model_copy(update={"files": weights}))
        if worked and run.spec.keeps_cleaned:
            _keep_cleaned(run)
        export_run(run.work_dir, record, results_dir(run.spec, results))
    return True


def _keep_cleaned(run: Run) -> None:
    """Move the run's best weights to the place of the cleaned model, unless a better is there."""
    made = run.work_dir / CLEANED
    place = cleaned_file(run.spec)
    row = cleaned_row(made)
    kept = cleaned_row(place)
    rank = row.rank(run.spec) if row else None
    kept_rank = kept.rank(run.spec) if kept and kept.fingerprint != run.fingerprint else None
    if rank and (kept_rank is None or rank < kept_rank):
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, made.read_bytes())
    made.unlink(missing_ok=True)


def is_delivered(run: Run, results: Path, models: bool = True) -> bool:
    """Whether the run's results are published and whole, and with `models` the model that it made
    too.

    Reads only. A line names what is published under the run's name and damaged.
    """
    folder = results_dir(run.spec, results) / run.spec.run_id
    if not (folder / RECORD).exists():
        return False
    try:
        record, _ = read_run(folder)
        if record.fingerprint != run.fingerprint or record.status == "failed":
            return False
        if not record.files:
            raise LedgerError(f"{folder / RECORD}: files: no hashes of the run's files")
        if models and run.spec.stage == "pretrain":
            model = model_dir(run.spec)
            made = read_record(model / RECORD)
            if made.fingerprint != run.fingerprint or content_hash(model) != record.model_hash:
                raise LedgerError(f"{model}: not the model that the run made")
    except LedgerError as error:
        print(f"{run.name}: {error}; it is published again", flush=True)
        return False
    return True
