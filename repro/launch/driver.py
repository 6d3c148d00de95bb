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

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from repro.events import say
from repro.launch import local, slurm
from repro.launch.progress import Progress
from repro.profile import clean_runs, pretrain_runs
from repro.runs.deliver import deliver, drop_stale, is_delivered, prune, refresh, reopen
from repro.runs.inputs import check_stores
from repro.runs.layout import DATA, MODELS, POISONED, RESULTS, WORK, model_dir, standard_inputs
from repro.runs.run import LaunchError, Run, identify
from repro.runs.signals import stoppable
from repro.runs.version import code_notice
from repro.spec import Dataset, Objective, Profile, RunSpec
from repro.unchanged import DIGITS, code_digest, unchanged

WORKER = "repro.worker"
Inputs = Callable[[RunSpec], dict[str, Path]]


def pretrain_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Pre-train the models of a profile, or of one dataset and objective."""
    _run_stage(profile_name, pretrain_runs, dataset, objective)


def clean_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Clean the pre-trained models of a profile, or one: all sizes, losses and learning rates."""
    if dataset and objective:
        # DVC wants the stage's outputs also where this cell has no run or no cleaned model.
        for folder in (RESULTS / profile_name / "clean", MODELS / profile_name / "cleaned"):
            (folder / f"{dataset}-{objective}").mkdir(parents=True, exist_ok=True)
    _run_stage(profile_name, clean_runs, dataset, objective)


def _run_stage(
    profile_name: str,
    runs: Callable[..., list[RunSpec]],
    dataset: Dataset | None,
    objective: Objective | None,
) -> None:
    """Run a stage, or one cell of it.

    DVC runs the cells one after another, which would leave devices idle at the end of each. The
    first cell therefore makes the runs of the others too, as far as their inputs are there.
    """

    def settings(profile: Profile) -> object:
        return [run.computed() for run in runs(profile, dataset, objective)]

    with unchanged(profile_name, settings, DIGITS) as profile:
        check_stores(profile, DATA / profile_name, POISONED / profile_name)
        run_all(runs(profile, dataset, objective), ahead=runs(profile))


def run_all(
    specs: list[RunSpec],
    inputs: Inputs = standard_inputs,
    results: Path = RESULTS,
    worker: str = WORKER,
    ahead: list[RunSpec] | None = None,
    kept: list[RunSpec] | None = None,
    models: Collection[Path] | None = None,
) -> None:
    """Bring the results of `specs` up to date, and those of `ahead` if there is anything to do.

    `inputs` gives the places of a run's inputs; runs of `ahead` without inputs wait for their own
    stage. Published runs in the cells at hand that are neither in `specs` nor in `kept` are
    removed, finished ones stay, the others run. A finished pre-training whose model is gone stays
    finished where `models`, the folders of the models that are needed, does not name its folder.
    Raises LaunchError with the runs that failed, after all others are published, and Stopped on a
    stop signal, after the running ones have ended in order.
    """
    code = code_digest()
    runs = [identify(spec, inputs(spec), code) for spec in specs]
    prune([*specs, *(kept or [])], results)

    due = []
    for run in runs:
        needed = models is None or model_dir(run.spec) in models
        if is_delivered(run, results, needed):
            refresh(run, results)
        else:
            due.append(run)

    # A cleaning run, for example, waits for its start model.
    early: list[Run] = []
    for spec in (ahead or []) if due else []:
        paths = inputs(spec)
        if spec not in specs and all(path.exists() for path in paths.values()):
            early.append(identify(spec, paths, code))
    drop_stale([*runs, *early])
    early = [run for run in early if not is_delivered(run, results)]

    # Batches find a run by its fingerprint in the work folder.
    for run in [*due, *early]:
        run.save()
        reopen(run)

    # Variants may share a run under names of their own: it runs once and is published under each.
    waiting = [run for run in [*due, *early] if not deliver(run, results)]
    once = list({run.fingerprint: run for run in waiting}.values())

    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in ("local", "slurm"):
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: local, slurm)")
    run_batches = slurm.run_on_cluster if name == "slurm" else local.run_here
    progress = Progress([*runs, *(run for run in waiting if run not in runs)], once)
    if notice := code_notice():
        say(notice)
    with stoppable(), progress:
        run_batches(once, results, worker, progress)

    # The other names of shared runs.
    for run in waiting:
        if run not in once:
            deliver(run, results)

    # Tracking never fails a run, so this line is the only sign.
    records = {run.fingerprint: run.finished() for run in once}
    lost = sum(r is not None and r.status != "failed" and not r.sacred for r in records.values())
    if lost:
        say(
            f"{lost} of {len(once)} runs have results, but no record in sacred/; why is in "
            f"{WORK / 'packs'}"
        )

    # A run that was made early may fail without failing this stage.
    failed = []
    for run in waiting:
        record = records[run.fingerprint]
        if record is None or record.status != "failed":
            continue
        if run in early:
            say(f"{run.name}: {record.reason}; its own stage tries it again")
        else:
            failed.append(f"\n  {run.name}: {record.reason}")
    if failed:
        raise LaunchError(
            f"{len(failed)} of {len(runs)} runs failed; the others are published. "
            f"Logs: {WORK / 'packs'}{''.join(failed)}"
        )
