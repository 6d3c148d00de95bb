"""The driver of a stage: starts the runs that are due and publishes each when it ends.

The chain of processes, from a command to a training step; each starts the next and ends with the
one before it:

    python -m repro reproduce    params.yaml, and DVC in its own process group
    dvc repro                    which stages are stale
    python -m repro clean        the driver: which runs are due, and where they go
    python -m repro run-job      one a device, or one a Slurm job: records and restarts (run_job.py)
    torchrun                     which process is which rank (torchrun.py)
    python -m repro.worker       one a rank: trains and evaluates

The driver only watches `work/<fingerprint>/record.json`. A run counts as done when its published
`run.json` bears its fingerprint, so a killed driver loses nothing and the next one goes on.
"""

import os
from collections.abc import Collection
from pathlib import Path

from repro.data.stages import is_absent
from repro.edits import code_digest, unedited
from repro.events import say
from repro.files import held
from repro.launch import local, slurm
from repro.launch.places import LOADER_WORKERS, count_from_environment
from repro.names import DATASETS
from repro.profile import STAGE_RUNS, resolved_file, resolved_profile
from repro.runs.again import prune, refresh, reopen, reopen_lost
from repro.runs.deliver import deliver, is_delivered
from repro.runs.inputs import check_stores
from repro.runs.layout import (
    DATA,
    MODELS,
    POISONED,
    RESULTS,
    WORK,
    InputsOf,
    model_dir,
    standard_inputs,
)
from repro.runs.machine import commit_notice
from repro.runs.run import LaunchError, identify
from repro.spec import Dataset, Objective, RunSpec, Stage

LAUNCHERS = {"local": local.run_here, "slurm": slurm.run_on_cluster}
"""By the value of REPRO_LAUNCHER."""


def train_stage(stage: Stage, profile_name: str, dataset: Dataset, objective: Objective) -> None:
    """Make the runs of a stage for the models of one dataset and objective.

    DVC runs the stages one after another, which would leave devices idle at the end of each. The
    first of them that trains therefore makes the runs of the others too, of both datasets, as far
    as their inputs are there. A dataset that the user did not bring has no runs.
    """
    expand, profile = STAGE_RUNS[stage], resolved_profile(profile_name)
    with unedited(resolved_file(profile_name)):
        check_stores(profile, DATA / profile_name, POISONED / profile_name)
        brought = [name for name in DATASETS if not is_absent(DATA / profile_name / name)]
        if dataset in brought:
            due = expand(profile, dataset, objective)
            others = [run for name in brought for run in expand(profile, name)]
            run_all(due, ahead=others)

    # DVC wants the outputs of a stage also where it has no run or no model.
    models = MODELS / profile_name
    if stage == "clean":
        models = models / "cleaned"
    model_name = f"{dataset}-{objective}"
    (RESULTS / profile_name / stage / model_name).mkdir(parents=True, exist_ok=True)
    (models / model_name).mkdir(parents=True, exist_ok=True)


def run_all(
    specs: list[RunSpec],
    inputs: InputsOf = standard_inputs,
    results: Path = RESULTS,
    worker: str = "repro.worker",
    ahead: Collection[RunSpec] = (),
    kept: Collection[RunSpec] = (),
    models: Collection[Path] | None = None,
) -> None:
    """Bring the results of `specs` up to date, and those of `ahead` if there is anything to do.

    `inputs` gives the places of a run's inputs; runs of `ahead` without inputs wait for their own
    stage. Published runs of the models at hand that are neither in `specs` nor in `kept` are
    removed, finished ones stay, the others run. A finished pre-training whose model is gone stays
    finished where `models`, the folders of the models that are needed, does not name its folder.
    Raises LaunchError with the runs that failed, after all others are published; a stop signal ends
    the running ones in order.
    """
    code = code_digest()
    runs = [identify(spec, inputs(spec), code) for spec in specs]
    prune([*specs, *kept], results)

    due = []
    for run in runs:
        needed = models is None or model_dir(run.spec) in models
        if not is_delivered(run, results, needed):
            due.append(run)
        else:
            refresh(run, results)

    if due:
        # What other stages have published is theirs to remove and refresh.
        others = [
            identify(spec, inputs(spec), code)
            for spec in ahead
            # A cleaning run, for example, waits for its start model.
            if spec not in specs and all(path.exists() for path in inputs(spec).values())
        ]
        due += [run for run in others if not is_delivered(run, results)]
        runs += others

    due += reopen_lost(runs, due, results)
    # Jobs find a run by its fingerprint in the work folder.
    for run in due:
        run.save()
        reopen(run)
    # A file system without locks is named before anything runs.
    for run in due[:1]:
        with held(run.work_dir / "publish.lock", wait=True):
            pass

    # Variants may share a run under names of their own: it runs once and is published under each.
    waiting = [run for run in due if not deliver(run, results)]
    once = {run.fingerprint: run for run in waiting}

    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in LAUNCHERS:
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: {', '.join(LAUNCHERS)})")
    # Refused here, since every rank would end with it.
    count_from_environment(LOADER_WORKERS, 0, least=0)
    if notice := commit_notice():
        say(notice)
    say(f"{len(once)} runs to make, {len(runs) - len(waiting)} are up to date")
    LAUNCHERS[name](list(once.values()), results, worker)

    for run in waiting:
        # Under the other names of shared runs.
        if run != once[run.fingerprint]:
            deliver(run, results)

    ends = {run.name: end for run in waiting if (end := run.finished())}
    # Tracking never fails a run, so this line is the only sign.
    unrecorded = {of.fingerprint for of in ends.values() if of.status != "failed" and not of.sacred}
    if unrecorded:
        say(
            f"{len(unrecorded)} of {len(once)} runs have results, but no record in sacred/; why is "
            f"in {WORK / 'jobs'}"
        )
    # The stage of a run that was made ahead tries it again, and names it.
    failed = [
        f"\n  {run.name}: {end.reason if end else 'another call makes it again'}"
        for run in waiting
        if run.spec in specs and ((end := ends.get(run.name)) is None or end.status == "failed")
    ]
    if failed:
        raise LaunchError(
            f"{len(failed)} of {len(specs)} runs failed; the others are published. "
            f"Logs: {WORK / 'jobs'}{''.join(failed)}"
        )
