"""Before a call: which ended runs begin again, and which published ones an edit of a specification
renews or removes.
"""

import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from repro.ledger import LedgerError, RunRecord, cleaned_row
from repro.runs.layout import cleaned_file, model_dir, results_dir
from repro.runs.published import RECORD, read_record, read_run, write_record
from repro.runs.run import Run
from repro.spec import RunSpec


class Best(NamedTuple):
    """The best evaluation of a setting, and the record of its run."""

    rank: tuple[float, float, float, str, int]
    """Of the evaluation (`Row.rank`)."""
    record: RunRecord


def best_cleaned(specs: Iterable[RunSpec], results: Path) -> Best | None:
    """The best evaluation among published runs of a setting."""
    ranked = []
    for spec in specs:
        folder = results_dir(spec, results) / spec.run_id
        record, rows = read_run(folder) if folder.is_dir() else (None, [])
        if record and record.status != "failed":
            ranked += [Best(rank, record) for row in rows if (rank := row.rank(spec))]
    return min(ranked, default=None)


def reopen_lost(runs: Iterable[Run], due: Collection[Run], results: Path) -> list[Run]:
    """Of `runs` without `due`, those that made the best cleaned model of their setting, but whose
    weights are gone: a better model, of an older specification, had their place. They begin again.

    Removes models of these settings that none of `runs` makes, or that count as cleaned no longer.
    """
    settings = defaultdict[Path, dict[str, Run]](dict)
    for run in runs:
        if run.spec.keeps_cleaned:
            settings[cleaned_file(run.spec)][run.fingerprint] = run

    lost = []
    for path, made in settings.items():
        kept = cleaned_row(path)
        kept_rank = None
        if kept and kept.fingerprint in made:
            kept_rank = kept.rank(made[kept.fingerprint].spec)
        if kept_rank is None:
            path.unlink(missing_ok=True)

        best = best_cleaned([run.spec for run in made.values() if run not in due], results)
        if best is None or (kept_rank is not None and kept_rank <= best.rank):
            continue
        run = made[best.record.fingerprint]
        lost.append(run)
        # One that a call has reopened, and that was stopped, goes on from its checkpoint.
        if run.has_ended:
            print(f"{run.name}: its best cleaned model is gone; it runs again", flush=True)
            run.discard()
    return lost


def reopen(run: Run) -> None:
    """Before a start: a failed run goes on from its last checkpoint."""
    record = run.finished()
    if record and record.status == "failed":
        (run.work_dir / "record.json").unlink(missing_ok=True)


def refresh(run: Run, results: Path) -> None:
    """Update the record of a delivered run in the fields that only metrics depend on."""
    path = results_dir(run.spec, results) / run.spec.run_id / RECORD
    record = read_record(path)
    if record.spec != run.spec:
        write_record(path, record.model_copy(update={"spec": run.spec}))


def prune(specs: list[RunSpec], results: Path) -> None:
    """Remove published runs of these models and variants that the specifications no longer name.

    Models of studies stay: variants of several studies may have one name.
    """
    known = {results_dir(spec, results) / spec.run_id for spec in specs}
    # Models lie elsewhere than results, and bear a run.json of their own.
    known |= {model_dir(spec) for spec in specs if spec.stage == "pretrain" and not spec.variant}
    variants = {(spec.variant, spec.poisoned) for spec in specs}
    for runs in {path.parent for path in known}:
        for folder in {path.parent for path in runs.glob(f"*/{RECORD}")} - known:
            # Runs of other variants are not for these specifications to remove.
            with suppress(LedgerError):
                spec = read_record(folder / RECORD).spec
                if (spec.variant, spec.poisoned) not in variants:
                    continue
            shutil.rmtree(folder, ignore_errors=True)
