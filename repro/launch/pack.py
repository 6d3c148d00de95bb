"""One batch of runs: torchrun around the worker, and Sacred around every run.

The process is `python -m repro run-pack BATCH.json`. Sacred lives here, outside torchrun: rank 0
reports events (`repro.events`), and each run's events become one Sacred run. After the death of a
worker torchrun is started again for the runs that remain, and they resume from their checkpoints.

The process ends with the driver that started it, in order: SIGTERM to torchrun, which passes it on
to the ranks, which write a checkpoint. Killed itself, it takes torchrun and the ranks along.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from repro.events import Event, PackFile, die_with_parent, say
from repro.files import held, read_json, replace_json
from repro.launch.packs import Attempts
from repro.launch.places import cores, devices
from repro.launch.torchrun import Torchrun
from repro.runs.deliver import save_failure, save_record
from repro.runs.run import LaunchError, Run
from repro.runs.signals import stoppable

if TYPE_CHECKING:
    from repro.tracking.record import Recorder

MAX_ATTEMPTS = 2
"""Failures of a run in a row without progress after which it is recorded as failed."""
MAX_BARREN = 2
"""Launches in a row in which no run starts, after which all of the batch are recorded as failed."""


def run_pack(path: Path) -> None:
    """Run the batch in `path` to a record for every run."""
    # A driver that is killed cannot ask for an end in order, so the kernel does.
    die_with_parent(signal.SIGTERM)
    pack = read_pack(path)
    runs = [Run.load(fingerprint) for fingerprint in pack["runs"]]
    with stoppable(), ExitStack() as stack:
        # One order for all batches, so that no two wait for each other.
        for run in sorted(runs, key=lambda run: run.fingerprint):
            busy = f"{run.name}: another process works on it ({run.work_dir}); waiting"
            stack.enter_context(held(run.work_dir / "lock", busy, wait=True))
        _run_all(path, pack, runs, stack)


def read_pack(path: Path) -> PackFile:
    """The batch's file, with what only the Slurm job that runs it can count; LaunchError if it is
    no such file.
    """
    content = read_json(path)
    if content is None or not PackFile.__annotations__.keys() <= content.keys():
        raise LaunchError(f"{path}: not a file of a batch of runs; a driver writes it")
    pack = cast(PackFile, content)
    if pack["in_job"]:
        # One task a node, whose cores its ranks share. Not every cluster binds a job to the cores
        # that it was given.
        pack["devices"] = devices()
        given = int(os.environ.get("SLURM_CPUS_PER_TASK", cores()))
        pack["threads"] = max(1, min(given, cores()) * pack["nodes"] // pack["ranks"])
    return pack


def _recorder(stack: ExitStack) -> Recorder:
    """Records with copies on the tracking server, if there is one; `stack` ends them."""
    # Not at the top: Sacred loads while the ranks do.
    from repro.tracking.record import Recorder
    from repro.tracking.server.address import TrackingError, server_url

    try:
        url = server_url()
    except TrackingError as error:
        say(f"tracking: {error}; records are kept on disk", sys.stderr)
        url = None
    if url is None:
        return Recorder(lambda folder: None)

    # Half of the time that this process takes to start, so only where there is a server.
    from repro.tracking.server.copier import Copier

    copier = Copier(url)
    stack.callback(copier.close)
    return Recorder(copier.copy)


def _run_all(path: Path, pack: PackFile, runs: list[Run], stack: ExitStack) -> None:
    """Start torchrun again and again, until every run has a record."""
    attempts, barren, recorder = Attempts(), 0, None
    while waiting := [run for run in runs if run.finished() is None]:
        # The ranks read the file anew: what has a record is not run again.
        pack["runs"] = [run.fingerprint for run in waiting]
        replace_json(path, pack)
        torchrun = Torchrun(pack, path)
        recorder = recorder or _recorder(stack)
        started, reason = _launch(torchrun, waiting, attempts, recorder)

        # Where no run starts, none is at fault, but the machine, the environment or the data.
        barren = 0 if started else barren + 1
        if barren == MAX_BARREN:
            for run in waiting:
                save_failure(run, reason, MAX_BARREN)


def _launch(
    torchrun: Torchrun, runs: list[Run], attempts: Attempts, recorder: Recorder
) -> tuple[int, str]:
    """One torchrun over the runs; returns how many started and why it ended."""
    by_fingerprint = {run.fingerprint: run for run in runs}
    for run in runs:
        attempts.begin([run])
    started = 0
    try:
        for event in torchrun.events:
            # The first event of a run; `_follow` takes those after it from the same iterator.
            started += 1
            _follow(by_fingerprint[event["fingerprint"]], event, torchrun, attempts, recorder)
    finally:
        torchrun.stop()
    return started, torchrun.reason()


def _follow(
    run: Run, first: Event, torchrun: Torchrun, attempts: Attempts, recorder: Recorder
) -> None:
    """One run from its first event to its record, or to a failure that does not count yet."""
    reason, sacred = recorder.record(run, first, torchrun.events, torchrun.reason)
    # The worker leaves its outcome as a file, written before it reports the end. Where an earlier
    # process died before the record, the worker only reports the end again.
    if not reason:
        outcome = run.outcome()
        if outcome is not None:
            save_record(run, run.record(outcome, sacred))
            return
        reason = f"{run.work_dir / 'outcome.json'}: missing or damaged"
    if attempts.failed(run) == MAX_ATTEMPTS:
        save_failure(run, reason, MAX_ATTEMPTS, sacred)
    else:
        say(f"{run.name}: {reason}; started again from its last checkpoint", sys.stderr)
