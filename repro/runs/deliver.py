"""Publication of finished runs: results, and models after pre-training, each in one rename."""

from __future__ import annotations

import shutil
from pathlib import Path

from repro.files import held, replace_file
from repro.ledger import LedgerError, RunRecord, export_run, read_run
from repro.runs.layout import model_dir, results_dir
from repro.runs.run import Run
from repro.spec import RunSpec

MODEL_FILES = ("model.safetensors", "optimizer.safetensors", "run.json")


def save_record(run: Run, record: RunRecord) -> None:
    """Mark the run as ended; the driver publishes it."""
    replace_file(run.work_dir / "record.json", record.model_dump_json(indent=1).encode())


def deliver(run: Run, results: Path) -> bool:
    """Publish the run if it has ended: its results, and its model after pre-training."""
    record = run.finished()
    if record is None:
        return False
    record = record.model_copy(
        update={"spec": run.spec}
    )  # it may have been made under another name
    # Another driver may publish the same run.
    with held(run.work_dir / "publish.lock", wait=True):
        if run.spec.stage == "pretrain" and record.status != "failed":
            target = model_dir(run.spec)
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (run.work_dir / "run.json").write_text(
                record.model_dump_json(indent=1) + "\n", encoding="utf-8"
            )
            for name in MODEL_FILES:
                shutil.copyfile(run.work_dir / name, partial / name)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        export_run(run.work_dir, record, results_dir(run.spec, results))
    return True


def is_delivered(run: Run, results: Path, models: bool = True) -> bool:
    """Whether the run's published record bears its fingerprint and is a result, and with `models` the model it made is there."""
    folder = results_dir(run.spec, results) / run.spec.run_id
    try:
        record, _ = read_run(folder)
    except LedgerError:
        return False
    if record.fingerprint != run.fingerprint or record.status == "failed":
        return False
    if models and run.spec.stage == "pretrain" and _made_by(model_dir(run.spec)) != run.fingerprint:
        return False
    if (
        record.spec != run.spec
    ):  # they differ in fields that only the reading of the ledger depends on
        replace_file(
            folder / "run.json",
            (
                record.model_copy(update={"spec": run.spec}).model_dump_json(indent=1) + "\n"
            ).encode(),
        )
    return True


def prune(specs: list[RunSpec], results: Path) -> None:
    """Remove published runs of these cells and variants that the specifications no longer name."""
    known = {results_dir(spec, results) / spec.run_id for spec in specs}
    known |= {model_dir(spec) for spec in specs if spec.stage == "pretrain"}
    variants = {(spec.variant, spec.poisoned) for spec in specs}
    for folder in {path.parent for path in known}:
        for path in sorted(folder.glob("*/run.json")):
            if path.parent in known:
                continue
            try:
                spec = RunRecord.model_validate_json(path.read_bytes()).spec
            except ValueError:
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            if (spec.variant, spec.poisoned) in variants:
                shutil.rmtree(path.parent, ignore_errors=True)


def _made_by(model: Path) -> str | None:
    """Fingerprint of the run that left a published model; None if there is none."""
    if not (model / "model.safetensors").exists():
        return None
    try:
        return RunRecord.model_validate_json((model / "run.json").read_bytes()).fingerprint
    except (OSError, ValueError):
        return None
