"""One pack of runs: torchrun around the worker, and Sacred around every run.

The process is `python -m repro run-pack PACK.json`.

Sacred lives here, outside torchrun, and the ranks know nothing of it: rank 0 reports events
(`repro.events`), and the pack turns each run's events into one Sacred run. A worker that dies costs
the run at hand one of its tries; torchrun is started again for the runs that remain, and they
resume from their checkpoints.

The pack ends with the driver that started it, in order: SIGTERM to torchrun, which passes it on to
the ranks, which write a checkpoint. Killed itself, it takes torchrun and the ranks along at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from repro.events import Event, PackFile, die_with_parent
from repro.files import held, replace_file
from repro.launch.agent import Torchrun
from repro.launch.places import devices
from repro.launch.torchrun import can_bind
from repro.launch.tries import Tries
from repro.ledger import RunOutcome
from repro.runs.deliver import save_record
from repro.runs.run import Run
from repro.runs.signals import stoppable
from repro.tracking.record import Recorder, say
from repro.tracking.server.address import TrackingError, server_url

if TYPE_CHECKING:
    from repro.tracking.server.copier import Copier

MAX_TRIES = 2
"""Failures of a run in a row without progress after which it is recorded as failed."""
MAX_BARREN = 2
"""Launches in a row in which no run starts, after which all of the pack are recorded as failed."""


def run_pack(path: Path) -> None:
    """Run the pack in `path` to a record for every run."""
    # A driver that is killed cannot ask for an end in order, so the kernel does.
    die_with_parent(signal.SIGTERM)
    pack = read_pack(path)
    runs = [Run.load(fingerprint) for fingerprint in pack["runs"]]
    copies = _copies()

    with stoppable(), ExitStack() as stack:
        # Closed last, after the end of every record.
        if copies:
            copies.start()
            stack.callback(copies.close)
        recorder = Recorder(copies.watch if copies else lambda folder: None, len(runs))
        # One order for all packs, so that no two wait for each other.
        for run in sorted(runs, key=lambda run: run.fingerprint):
            stack.enter_context(_locked(run))
        _run_all(path, pack, runs, recorder)


def read_pack(path: Path) -> PackFile:
    """The pack file; what only the Slurm job that runs it can count is filled in."""
    pack = cast(PackFile, json.loads(path.read_bytes()))
    if not pack["in_job"]:
        return pack

    # One task a node, whose cores its ranks share.
    pack["devices"] = devices()
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        pack["threads"] = max(1, int(cpus) * pack["nodes"] // pack["ranks"])
    return pack


def _run_all(path: Path, pack: PackFile, runs: list[Run], recorder: Recorder) -> None:
    """Start torchrun again and again, until every run has a record."""
    tries, barren, bind = Tries(), 0, can_bind(pack)
    while waiting := [run for run in runs if run.finished() is None]:
        # The ranks read the file anew: what has a record is not run again.
        pack["runs"] = [run.fingerprint for run in waiting]
        replace_file(path, json.dumps(pack, indent=1).encode())

        started, reason = _launch(Torchrun(pack, path, bind), waiting, tries, recorder)
        if started:
            barren = 0
            continue

        # No run at fault: the start itself fails, by the machine, the environment or the data.
        barren += 1

        # It may be the binding, on which no result depends: once more without.
        if bind:
            say("no run started; ranks are bound to the cores near their GPUs no more", sys.stderr)
            bind = False
        if barren == MAX_BARREN:
            for run in waiting:
                _save_failure(run, {}, reason, None)


def _launch(
    torchrun: Torchrun, runs: list[Run], tries: Tries, recorder: Recorder
) -> tuple[int, str]:
    """One torchrun over the runs; returns how many started and why it ended."""
    by_fingerprint = {run.fingerprint: run for run in runs}
    for run in runs:
        tries.begin([run])
        # The end of a failed try must not pass for that of this one. Any other outcome stays: an
        # earlier pack died before its record, and the worker only reports the end again.
        outcome = run.outcome()
        if outcome is None or outcome["status"] == "failed":
            (run.work_dir / "outcome.json").unlink(missing_ok=True)

    started = 0
    try:
        for event in torchrun.events:
            # The first event of a run; `_follow` takes those after it from the same iterator.
            started += 1
            _follow(by_fingerprint[event["fingerprint"]], event, torchrun, tries, recorder)
    finally:
        torchrun.stop()
    return started, torchrun.reason()


def _follow(run: Run, first: Event, torchrun: Torchrun, tries: Tries, recorder: Recorder) -> None:
    """One run from its first event to its record, or to a failure that does not count yet."""
    reason, sacred = recorder.record(run, first, torchrun.events, torchrun.reason)
    # The worker leaves its outcome as a file, written before it reports the end.
    outcome = run.outcome()
    if outcome is None and not reason:
        reason = f"{run.work_dir / 'outcome.json'}: missing or damaged"

    if outcome is not None and not reason:
        save_record(run, run.record(outcome, sacred))
    elif tries.failed(run) == MAX_TRIES:
        _save_failure(run, outcome or {}, reason, sacred)
    else:
        say(f"{run.name}: {reason}; started again from its last checkpoint", sys.stderr)


def _save_failure(run: Run, outcome: RunOutcome, reason: str, sacred: str | None) -> None:
    ended: RunOutcome = {"status": "failed", "reason": reason, "attempts": MAX_TRIES}
    save_record(run, run.record({**outcome, **ended}, sacred))


def _copies() -> Copier | None:
    """Copies to the tracking server, if there is one; one that cannot be named stops no run."""
    try:
        url = server_url()
    except TrackingError as error:
        say(f"tracking: {error}; records are kept on disk", sys.stderr)
        return None
    if url is None:
        return None

    # Half of the time that a pack takes to start, so only where there is a server.
    from repro.tracking.server.copier import Copier

    return Copier(url)


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Hold the run's work folder; wait, and say so, while another process has it."""
    busy = f"{run.name}: another process works on it ({run.work_dir}); waiting"
    with held(run.work_dir / "lock", busy, wait=True):
        yield
