"""The driver of a stage: starts what is due and publishes each run when it ends.

The chain of processes, from a command to a training step; each starts the next and ends with the
one before it:

    python -m repro reproduce    params.yaml for this call, DVC in its own process group
    dvc repro                    which stages are stale
    python -m repro clean        the driver: which runs are due, and where they go
    python -m repro run-pack     one a place, or one a Slurm job: records and new tries (pack.py)
    torchrun                     which process is which rank (torchrun.py)
    python -m repro.worker       one a rank: trains and evaluates

The driver only watches `work/<fingerprint>/record.json`. A run counts as done when its published
`run.json` bears its fingerprint, so a killed driver loses nothing and the next one goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from repro.launch import local, slurm
from repro.launch.board import Board
from repro.profile import clean_runs, load_profile, pretrain_runs, spec_hash
from repro.runs.code import code_version
from repro.runs.deliver import deliver, is_delivered, prune, refresh, reopen
from repro.runs.layout import WORK, model_dir, standard_inputs
from repro.runs.machine import git_refusal
from repro.runs.run import LaunchError, Run, identify
from repro.runs.signals import stoppable
from repro.spec import Dataset, Objective, RunSpec

RESULTS = Path("results")
WORKER = "repro.worker"
Inputs = Callable[[RunSpec], dict[str, Path]]


def pretrain_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Pre-train the models of a profile, or of one dataset slot and objective."""
    profile = load_profile(profile_name)
    run_stage(profile_name, pretrain_runs(profile, dataset, objective), pretrain_runs(profile))


def clean_stage(
    profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None
) -> None:
    """Clean the pre-trained models of a profile, or one: all sizes, losses and learning rates."""
    profile = load_profile(profile_name)
    if dataset and objective:
        # DVC wants the stage's output also where the sweep has no run in this cell.
        cell = RESULTS / profile_name / "clean" / f"{dataset}-{objective}"
        cell.mkdir(parents=True, exist_ok=True)
    run_stage(profile_name, clean_runs(profile, dataset, objective), clean_runs(profile))


def run_stage(profile_name: str, specs: list[RunSpec], ahead: list[RunSpec]) -> None:
    """`run_all`, and fail if the profile's specifications changed meanwhile.

    DVC would credit the results to the new ones.

    DVC runs stages one after another, and at the end of each some places would stand idle. The
    first stage therefore makes the runs of `ahead` too, as far as their inputs are there; the later
    stages then find them done.
    """
    before = spec_hash(profile_name)
    run_all(specs, ahead=ahead)
    if spec_hash(profile_name) != before:
        raise LaunchError(
            f"specs of {profile_name} changed while the stage ran; its results belong to the old "
            "ones: run it again"
        )


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

    `inputs` tells where the inputs of a run lie; runs of `ahead` without inputs wait for their own
    stage. Published runs in the cells at hand that are neither among `specs` nor `kept` are
    removed, finished ones stay, the others run. Where `models` names the folders of those that are
    wanted, a finished pre-training whose model is gone and not among them stays too: its rows are
    all that is asked for. Raises LaunchError naming the runs that failed, after all others are
    published, and Stopped on a stop signal, after the running ones have ended in order.
    """
    # What every run would be if it were made now: the fingerprint tells it from what is published.
    code = code_version()
    runs = [identify(spec, inputs(spec), code, results) for spec in specs]
    prune([*specs, *(kept or [])], results)

    due = []
    for run in runs:
        wanted = models is None or model_dir(run.spec) in models
        if is_delivered(run, results, wanted):
            refresh(run, results)
        else:
            due.append(run)

    early: list[Run] = []
    if due:
        others = [spec for spec in ahead or [] if spec not in specs]
        early = _early(others, inputs, code, results)

    # Packs find a run by its fingerprint in the work folder.
    for run in [*due, *early]:
        run.save()
        reopen(run)

    # Variants may share a run under names of their own: it runs once and is published under each.
    waiting = [run for run in [*due, *early] if not deliver(run, results)]
    once = list({run.fingerprint: run for run in waiting}.values())

    place_runs = slurm.run_on_cluster if launcher() == "slurm" else local.run_here
    board = Board([*runs, *(run for run in waiting if run not in runs)], once)
    if once and (refusal := git_refusal()):
        board.say(f"git does not tell the commit, so that no record will: {refusal}")
    with stoppable(), board:
        place_runs(once, results, worker, board)

    # The other names of shared runs.
    for run in waiting:
        if run not in once:
            deliver(run, results)

    # Tracking never fails a run, so that nothing else would tell.
    if untold := _unrecorded(once):
        board.say(
            f"{untold} of {len(once)} runs have results, but no record in sacred/; why is in "
            f"{WORK / 'packs'}"
        )

    # A run that was made early may fail without failing this stage.
    for name, reason in _failures(early).items():
        board.say(f"{name}: {reason}; its own stage tries it again")
    if failed := _failures(due):
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        raise LaunchError(
            f"{len(failed)} of {len(runs)} runs failed; the others are published. "
            f"Logs: {WORK / 'packs'}{reasons}"
        )


def _early(specs: list[RunSpec], inputs: Inputs, code: str, results: Path) -> list[Run]:
    """Runs of later stages that are due and can be made now."""
    found = []
    for spec in specs:
        # A cleaning run, for example, waits for its start model.
        paths = inputs(spec)
        if all(path.exists() for path in paths.values()):
            found.append(identify(spec, paths, code, results))
    return [run for run in found if not is_delivered(run, results)]


def _failures(runs: list[Run]) -> dict[str, str]:
    """Reasons of those that failed, by name."""
    records = {run.name: run.finished() for run in runs}
    return {
        name: record.reason
        for name, record in records.items()
        if record and record.status == "failed"
    }


def _unrecorded(runs: list[Run]) -> int:
    """How many ended well without a Sacred record."""
    records = [run.finished() for run in runs]
    return sum(
        record is not None and record.status != "failed" and record.sacred is None
        for record in records
    )


def launcher() -> str:
    """Where runs go: `local` or `slurm`, by REPRO_LAUNCHER."""
    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in ("local", "slurm"):
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: local, slurm)")
    return name
