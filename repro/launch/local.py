"""Packs on this machine: one process a place, watched until every due run has a record.

Driver -> `python -m repro run-pack` (one a place, Sacred) -> torchrun -> ranks. Each ends with the
one above it; the driver is asked to stop by a signal and passes it down, so that every rank writes
a checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from repro.events import PARENT
from repro.launch.agent import last_error
from repro.launch.board import Board
from repro.launch.packs import Pack, pack_log, queues, write_pack
from repro.launch.tries import Tries
from repro.ledger import RunOutcome
from repro.runs.deliver import deliver, save_record
from repro.runs.layout import WORK
from repro.runs.run import Run

MAX_PACKS = 2
"""Pack processes in a row that may die over a run without progress before it counts as failed."""
RANK_SECONDS = 20.0
"""Time for ranks to write a checkpoint and end when they are asked to stop."""
STOP_SECONDS = RANK_SECONDS + 10.0
"""Time for a pack to end when it is asked to stop, its ranks included."""
POLL_SECONDS = 0.2
LOG_TAIL = 1 << 16
"""Bytes at the end of a log that are searched for an error."""


@dataclass
class Lane:
    """The packs of one place: waiting ones and the running one."""

    waiting: list[Pack]
    pack: Pack | None = None
    process: subprocess.Popen[bytes] | None = None


def run_here(due: list[Run], results: Path, worker: str, board: Board) -> None:
    """Start, watch and publish until every due run has a record and every pack has ended."""
    lanes = [Lane(packs) for packs in queues(due)]
    # Runs leave as their results are published.
    unpublished = {run.fingerprint: run for run in due}
    tries = Tries()
    try:
        while unpublished or any(lane.process for lane in lanes):
            for lane in lanes:
                _move(lane, worker, tries, board)

            for run in list(unpublished.values()):
                if deliver(run, results):
                    del unpublished[run.fingerprint]

            board.show([lane.pack for lane in lanes if lane.pack is not None])
            time.sleep(POLL_SECONDS)
    finally:
        # Also after an error or a stop signal: no pack outlives its driver.
        _stop([lane.process for lane in lanes if lane.process is not None])


def _move(lane: Lane, worker: str, tries: Tries, board: Board) -> None:
    """Start the lane's next pack where none runs; settle one that has ended."""
    if lane.process is None and lane.waiting:
        lane.pack = lane.waiting.pop(0)
        tries.begin(lane.pack.runs)
        lane.process = _start(lane.pack, worker)
    elif lane.pack and lane.process and lane.process.poll() is not None:
        _settle(lane, lane.pack, lane.process.returncode, tries, board)


def _settle(lane: Lane, pack: Pack, status: int, tries: Tries, board: Board) -> None:
    """After a pack process ended: runs without a record get another pack, or have failed."""
    again = []
    for run in pack.runs:
        # A pack records the runs that fail in it: without a record it died itself.
        if run.finished() is not None:
            continue
        if tries.failed(run) < MAX_PACKS:
            again.append(run)
            continue
        reason = f"the process of its pack ended with {_in_words(status)}{_last_words(pack)}"
        ended: RunOutcome = {"status": "failed", "reason": reason, "attempts": MAX_PACKS}
        save_record(run, run.record(ended, None))

    if again:
        board.say(
            f"a pack of {len(again)} unfinished runs ended with {_in_words(status)}: started again"
        )
        # Before the other packs of the place, as it began before them.
        lane.waiting.insert(0, Pack(tuple(again), pack.place))
    lane.pack = lane.process = None


def _start(pack: Pack, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a pack, its output going to `work/packs/<name>.log`."""
    # Another driver may start the same runs, hence the process id.
    path = WORK / "packs" / f"{pack.name}.{os.getpid()}.json"
    write_pack(pack, path, worker, RANK_SECONDS)
    environment = os.environ | {
        PARENT: str(os.getpid()),
        "CUDA_VISIBLE_DEVICES": ",".join(pack.place.devices),
    }
    with pack_log(pack).open("ab") as log:
        # Its own process group: Ctrl-C reaches the driver alone, which stops the packs in order.
        return subprocess.Popen(
            [sys.executable, "-m", "repro", "run-pack", str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the processes: politely, and after the grace period by force."""
    for process in processes:
        process.terminate()

    deadline = time.monotonic() + STOP_SECONDS
    # One deadline for all: they write their checkpoints side by side.
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _in_words(status: int) -> str:
    """An exit status in words."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _last_words(pack: Pack) -> str:
    """The last error in a pack's log, and where the log is."""
    path = pack_log(pack)
    # Logs of earlier packs of that name lie before it in the same file.
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL))
        lines = log.read().decode(errors="replace").splitlines()

    error = last_error(lines)
    return (f": {error}" if error else "") + f"; see {path}"
