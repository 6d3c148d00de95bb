"""The driver of a stage: starts what is due, publishes each run when it ends, survives its own death.

One pack process per slot (`python -m repro run-pack`) runs torchrun and keeps the records; the driver only
watches `work/<fingerprint>/record.json`. A run counts as done when its published `run.json` bears its fingerprint, so
a killed driver loses nothing and the next one goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from repro.launch.board import Board
from repro.launch.local import _drive, _Queue
from repro.launch.packs import queues
from repro.launch.places import devices
from repro.profile import clean_runs, load_profile, pretrain_runs, spec_hash
from repro.runs.code import code_version
from repro.runs.deliver import deliver, is_delivered, prune, refresh, reopen
from repro.runs.layout import WORK, standard_inputs
from repro.runs.run import LaunchError, identify
from repro.runs.signals import stoppable
from repro.spec import Dataset, Objective, RunSpec

RESULTS = Path("results")
WORKER = "repro.worker"


def pretrain_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Pre-train the models of a profile, or of one dataset slot and objective."""
    profile = load_profile(profile_name)
    run_stage(profile_name, pretrain_runs(profile, dataset, objective), pretrain_runs(profile))


def clean_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Clean the pre-trained models of a profile, or one of them: all sizes, losses and learning rates."""
    profile = load_profile(profile_name)
    run_stage(profile_name, clean_runs(profile, dataset, objective), clean_runs(profile))


def run_stage(profile_name: str, specs: list[RunSpec], ahead: list[RunSpec]) -> None:
    """`run_all`, and fail if the profile's specifications changed meanwhile: DVC would credit the results to the new ones.

    DVC runs stages one after another. Where runs of several cells can go side by side, on cores or in a cluster, the first
    stage therefore makes those of `ahead` too, as far as their inputs are there; the later stages then find them done.
    """
    before = spec_hash(profile_name)
    run_all(specs, ahead=ahead if launcher() == "slurm" or not devices() else [])
    if spec_hash(profile_name) != before:
        raise LaunchError(
            f"specs of {profile_name} changed while the stage ran; its results belong to the old ones: run it again"
        )


def run_all(
    specs: list[RunSpec],
    inputs: Callable[[RunSpec], dict[str, Path]] = standard_inputs,
    results: Path = RESULTS,
    worker: str = WORKER,
    ahead: list[RunSpec] | None = None,
    kept: list[RunSpec] | None = None,
    models: bool = True,
) -> None:
    """Bring the published results of `specs` up to date, and those of `ahead` if there is anything to do.

    `inputs` tells where the inputs of a run lie; runs of `ahead` without inputs wait for their own stage. Published runs in
    the cells at hand that are neither among `specs` nor `kept` are removed, finished ones stay, the others run. Without `models`
    a finished pre-training whose model is gone stays too: its rows are all that is wanted. Raises LaunchError naming the runs
    that failed, after all others are published, and Stopped on SIGINT or SIGTERM, after the running ones have ended in order.
    """
    code = code_version()
    runs = [identify(spec, inputs(spec), code, results) for spec in specs]
    prune([*specs, *(kept or [])], results)
    due = []
    for run in runs:
        if is_delivered(run, results, models):
            refresh(run, results)
        else:
            due.append(run)
    if due:
        others = [
            spec
            for spec in ahead or []
            if spec not in specs and all(path.exists() for path in inputs(spec).values())
        ]
        due += [
            run
            for run in (identify(spec, inputs(spec), code, results) for spec in others)
            if not is_delivered(run, results)
        ]
    for run in due:
        run.save()
        reopen(run)
    due = [run for run in due if not deliver(run, results)]
    once = list(
        {run.fingerprint: run for run in due}.values()
    )  # variants may share a run under names of their own
    board = Board([*runs, *(run for run in due if run not in runs)], once)
    with stoppable(), board:
        if launcher() == "slurm":
            from repro.launch import slurm

            slurm.drive(once, results, worker, board)
        else:
            _drive([_Queue(packs) for packs in queues(once)], once, results, worker, board)
    for run in due:
        if run not in once:
            deliver(run, results)
    failed = {
        run.name: record.reason
        for run in due
        if (record := run.finished()) and record.status == "failed"
    }
    if failed:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        raise LaunchError(
            f"{len(failed)} of {len(runs)} runs failed; the others are published. Logs: {WORK / 'packs'}{reasons}"
        )


def launcher() -> str:
    """Where runs go: `local` or `slurm`, by REPRO_LAUNCHER."""
    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in ("local", "slurm"):
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: local, slurm)")
    return name
