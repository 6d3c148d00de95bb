"""The driver of a stage: starts the runs that are due and publishes each when it ends.

The chain of processes, from a command to a training step; each starts the next and ends with the
one before it:

    python -m repro reproduce    params.yaml for this call, DVC in its own process group
    dvc repro                    which stages are stale
    python -m repro clean        the driver: which runs are due, and where they go
    python -m repro run-pack     one a device, or one a Slurm job: records and restarts (pack.py)
    torchrun                     which process is which rank (torchrun.py)
    python -m repro.worker       one a rank: trains and evaluates

The driver only watches `work/<fingerprint>/record.json`. A run counts as done when its published
`run.json` bears its fingerprint, so a killed driver loses nothing and the next one goes on.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from repro.data.stages import is_absent
from repro.events import say
from repro.files import held
from repro.launch import local, slurm
from repro.launch.places import LOADER_WORKERS, count_from_environment
from repro.ledger import Row
from repro.profile import clean_runs, pretrain_runs
from repro.runs.deliver import (
    begin_again,
    deliver,
    is_delivered,
    prune,
    refresh,
    reopen,
    reopen_lost,
    what_changed,
)
from repro.runs.inputs import check_stores
from repro.runs.layout import (
    DATA,
    MODELS,
    POISONED,
    RESULTS,
    WORK,
    InputsOf,
    model_dir,
    results_dir,
    standard_inputs,
)
from repro.runs.machine import commit_notice
from repro.runs.published import read_run
from repro.runs.run import LaunchError, identify
from repro.runs.version import code_notice
from repro.spec import Dataset, Objective, RunSpec
from repro.unchanged import DIGITS, code_digest, unchanged

AGAIN = "REPRO_AGAIN"
"""Environment variable with the places of finished runs that `reproduce` wants made anew."""
LAUNCHERS = {"local": local.run_here, "slurm": slurm.run_on_cluster}
"""By the value of REPRO_LAUNCHER."""


def run_stage(
    runs: Callable[..., list[RunSpec]],
    profile_name: str,
    dataset: Dataset,
    objective: Objective,
) -> None:
    """Make the `runs` of a profile for the models of one dataset and objective: a cell.

    DVC runs the cells one after another, which would leave devices idle at the end of each. The
    first cell of a dataset therefore makes the runs of its others too, as far as their inputs are
    there. A dataset that the user did not bring has no runs.
    """
    with unchanged(
        profile_name,
        lambda profile: [run.computed() for run in runs(profile, dataset, objective)],
        DIGITS,
    ) as profile:
        check_stores(profile, DATA / profile_name, POISONED / profile_name)
        again = os.environ.get(AGAIN, "").split(",")
        if not is_absent(DATA / profile_name / dataset):
            due, others = runs(profile, dataset, objective), runs(profile, dataset)
            run_all(due, ahead=others, again=again)


def make_folders(*folders: Path) -> None:
    """DVC wants the outputs of a stage also where it has no run or no model."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def pretrain_stage(profile_name: str, dataset: Dataset, objective: Objective) -> None:
    """Pre-train the model of a cell, once a seed."""
    run_stage(pretrain_runs, profile_name, dataset, objective)
    cell = f"{dataset}-{objective}"
    make_folders(RESULTS / profile_name / "pretrain" / cell, MODELS / profile_name / cell)


def clean_stage(profile_name: str, dataset: Dataset, objective: Objective) -> None:
    """Clean the models of a cell: all sizes, losses and learning rates."""
    run_stage(clean_runs, profile_name, dataset, objective)
    cell = f"{dataset}-{objective}"
    make_folders(RESULTS / profile_name / "clean" / cell, MODELS / profile_name / "cleaned" / cell)


def run_all(
    specs: list[RunSpec],
    inputs: InputsOf = standard_inputs,
    results: Path = RESULTS,
    worker: str = "repro.worker",
    ahead: Collection[RunSpec] = (),
    kept: Collection[RunSpec] = (),
    models: Collection[Path] | None = None,
    again: Collection[str] = (),
) -> None:
    """Bring the results of `specs` up to date, and those of `ahead` if there is anything to do.

    `inputs` gives the places of a run's inputs; runs of `ahead` without inputs wait for their own
    stage. Published runs in the cells at hand that are neither in `specs` nor in `kept` are
    removed, finished ones stay, the others run. A finished pre-training whose model is gone stays
    finished where `models`, the folders of the models that are needed, does not name its folder.
    Finished runs whose `place` is in `again` are made anew, and what changed is said.
    Raises LaunchError with the runs that failed, after all others are published; a stop signal ends
    the running ones in order.
    """
    code = code_digest()
    runs = [identify(spec, inputs(spec), code) for spec in specs]
    prune([*specs, *kept], results)

    due = []
    before: dict[str, list[Row]] = {}
    for run in runs:
        needed = models is None or model_dir(run.spec) in models
        if not is_delivered(run, results, needed):
            due.append(run)
        elif run.place in again:
            before[run.fingerprint] = read_run(results_dir(run.spec, results) / run.spec.run_id)[1]
            begin_again(run)
            due.append(run)
        else:
            refresh(run, results)

    # What other stages have published is theirs to remove and refresh.
    for spec in ahead if due else ():
        # A cleaning run, for example, waits for its start model.
        if spec not in specs and all(path.exists() for path in inputs(spec).values()):
            runs.append(run := identify(spec, inputs(spec), code))
            if not is_delivered(run, results):
                due.append(run)

    due += reopen_lost(runs, due, results)
    # Batches find a run by its fingerprint in the work folder.
    for run in due:
        run.save()
        reopen(run)
    # A file system without locks is named before anything runs.
    for run in due[:1]:
        with held(run.work_dir / "publish.lock", wait=True):
            pass

    # Variants may share a run under names of their own: it runs once and is published under each.
    waiting = [run for run in due if not deliver(run, results)]
    once = list({run.fingerprint: run for run in waiting}.values())

    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in LAUNCHERS:
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: {', '.join(LAUNCHERS)})")
    # Refused here, since every rank would end with it.
    count_from_environment(LOADER_WORKERS, 0, least=0)
    for notice in filter(None, (code_notice(), commit_notice())):
        say(notice)
    say(f"{len(once)} runs to make, {len(runs) - len(waiting)} are up to date")
    LAUNCHERS[name](once, results, worker)

    # The other names of shared runs.
    for run in waiting:
        if run not in once:
            deliver(run, results)

    for run in waiting:
        if (rows := before.pop(run.fingerprint, None)) is not None:
            say(f"{run.name}, made anew: {what_changed(run, rows, results)}")

    records = {run.fingerprint: record for run in once if (record := run.finished())}
    # Tracking never fails a run, so this line is the only sign.
    if lost := sum(r.status != "failed" and not r.sacred for r in records.values()):
        say(
            f"{lost} of {len(once)} runs have results, but no record in sacred/; why is in "
            f"{WORK / 'packs'}"
        )
    # The stage of a run that was made ahead tries it again, and names it.
    failed = [
        f"\n  {run.name}: {end.reason}"
        for run in waiting
        if run.spec in specs and (end := records[run.fingerprint]).status == "failed"
    ]
    if failed:
        raise LaunchError(
            f"{len(failed)} of {len(specs)} runs failed; the others are published. "
            f"Logs: {WORK / 'packs'}{''.join(failed)}"
        )
