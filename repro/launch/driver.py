"""The driver of a stage: starts what is due, publishes each run when it ends, survives its own death.

One pack process per slot (`python -m repro run-pack`) runs torchrun and keeps the records; the driver only
watches `work/<fingerprint>/record.json`. A run counts as done when its published `run.json` bears its fingerprint, so
a killed driver loses nothing and the next one goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from repro.launch.identity import WORK, LaunchError, Run, code_version, identify, spec_hash, standard_inputs
from repro.launch.progress import Board
from repro.launch.publication import is_published, prune, publish, save_record
from repro.launch.slots import TRAINING_ENVIRONMENT, Pack, devices, queues
from repro.ledger import replace_file
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import Dataset, Objective, RunSpec
from repro.wire import PARENT

RESULTS = Path("results")
WORKER = "repro.worker"
PACK_TRIES = 2
"""Starts of a pack process for the same run before the run counts as failed."""
GRACE_SECONDS = 30
"""Time for running packs to write a checkpoint and end when the driver is stopped."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGINT; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Queue:
    """The packs of one slot: waiting ones and the running one."""

    waiting: list[Pack]
    pack: Pack | None = None
    process: subprocess.Popen[bytes] | None = None
    tries: Counter[str] = field(default_factory=Counter)


def pretrain_stage(profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None) -> None:
    """Pre-train the models of a profile, or of one dataset slot and objective."""
    profile = load_profile(profile_name)
    run_stage(profile_name, pretrain_runs(profile, dataset, objective), pretrain_runs(profile))


def clean_stage(profile_name: str, dataset: Dataset | None = None, objective: Objective | None = None) -> None:
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
        raise LaunchError(f"specs of {profile_name} changed while the stage ran; its results belong to the old ones: run it again")


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
    runs = [identify(spec, inputs(spec), code) for spec in specs]
    prune([*specs, *(kept or [])], results)
    due = [run for run in runs if not is_published(run, results, models)]
    if due:
        others = [spec for spec in ahead or [] if spec not in specs and all(path.exists() for path in inputs(spec).values())]
        due += [run for run in (identify(spec, inputs(spec), code) for spec in others) if not is_published(run, results)]
    for run in due:
        run.save()
        if (record := run.finished()) and record.status == "failed":
            (run.work_dir / "record.json").unlink()
    due = [run for run in due if not publish(run, results)]
    once = list({run.fingerprint: run for run in due}.values())  # variants may share a run under names of their own
    board = Board([*runs, *(run for run in due if run not in runs)], once)
    with stoppable(), board:
        if launcher() == "slurm":
            from repro.launch import slurm

            slurm.drive(once, results, worker, board)
        else:
            _drive([_Queue(packs) for packs in queues(once)], once, results, worker, board)
    for run in due:
        if run not in once:
            publish(run, results)
    failed = {run.name: record.reason for run in due if (record := run.finished()) and record.status == "failed"}
    if failed:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        raise LaunchError(f"{len(failed)} of {len(runs)} runs failed; the others are published. Logs: {WORK / 'packs'}{reasons}")


def launcher() -> str:
    """Where runs go: `local` or `slurm`, by REPRO_LAUNCHER."""
    name = os.environ.get("REPRO_LAUNCHER", "local")
    if name not in ("local", "slurm"):
        raise LaunchError(f"REPRO_LAUNCHER: {name!r} (allowed: local, slurm)")
    return name


def _drive(slots: list[_Queue], due: list[Run], results: Path, worker: str, board: Board) -> None:
    """Start, watch and publish until every due run has a record and every pack has ended."""
    unpublished = {run.fingerprint: run for run in due}
    try:
        while unpublished or any(slot.process for slot in slots):
            for slot in slots:
                if slot.process is None and slot.waiting:
                    slot.pack = slot.waiting.pop(0)
                    slot.process = _start(slot.pack, worker)
                elif slot.process is not None and slot.process.poll() is not None:
                    _settle(slot)
            for run in [run for run in unpublished.values() if publish(run, results)]:
                del unpublished[run.fingerprint]
            board.show([slot.pack for slot in slots if slot.pack is not None])
            time.sleep(0.2)
    finally:
        _stop([slot.process for slot in slots if slot.process is not None])


def _settle(slot: _Queue) -> None:
    """After a pack process ended: give runs without a record another pack, or record them as failed."""
    assert slot.pack is not None
    assert slot.process is not None
    missing = [run for run in slot.pack.runs if run.finished() is None]
    slot.tries.update(run.fingerprint for run in missing)
    again = tuple(run for run in missing if slot.tries[run.fingerprint] < PACK_TRIES)
    for run in missing:
        if run not in again:
            reason = f"the process of its pack ended with {_exit(slot.process.returncode)}; see {pack_log(slot.pack)}"
            save_record(run, run.record({"status": "failed", "reason": reason, "attempts": PACK_TRIES}, None))
    if again:
        slot.waiting.insert(0, Pack(again, slot.pack.slot))
    slot.pack = slot.process = None


def _start(pack: Pack, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a pack, its output going to `work/packs/<name>.log`."""
    path = WORK / "packs" / f"{pack.name}.{os.getpid()}.json"  # another driver may start the same runs
    write_pack(pack, path, worker)
    environment = os.environ | {
        PARENT: str(os.getpid()), "CUDA_VISIBLE_DEVICES": ",".join(pack.slot.devices), "OMP_NUM_THREADS": str(pack.slot.threads),
        **TRAINING_ENVIRONMENT,
    }  # fmt: skip
    with pack_log(pack).open("ab") as log:
        # Its own process group: Ctrl-C in the terminal reaches the driver alone, which then stops the packs in order.
        command = [sys.executable, "-m", "repro", "run-pack", str(path)]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)


def write_pack(pack: Pack, path: Path, worker: str) -> None:
    """Write what `python -m repro run-pack` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"runs": [run.fingerprint for run in pack.runs], "work": WORK.as_posix(), "worker": worker,
               "ranks": pack.slot.ranks, "nodes": pack.slot.nodes, "threads": pack.slot.threads}  # fmt: skip
    replace_file(path, json.dumps(content, indent=1).encode())


def pack_log(pack: Pack) -> Path:
    """Where the output of a pack goes."""
    return WORK / "packs" / f"{pack.name}.log"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the processes: politely, and after the grace period by force."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped` inside the block."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _exit(code: int) -> str:
    """An exit status in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
