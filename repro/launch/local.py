"""Batches of runs on this machine: one process a device, watched until every due run has a record.

The driver is asked to stop by a signal and passes it down, so that every rank writes a checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.events import PARENT, say
from repro.launch.packs import Attempts, Pack, queues, write_pack
from repro.launch.progress import Progress
from repro.launch.torchrun import last_error
from repro.runs.deliver import deliver, save_failure
from repro.runs.layout import WORK
from repro.runs.run import Run

MAX_PACKS = 2
"""Processes in a row that may die over a run without progress before it counts as failed."""
RANK_SECONDS = 20.0
"""Time for ranks to write a checkpoint and end when they are asked to stop."""
STOP_SECONDS = RANK_SECONDS + 10.0
"""Time for a batch to end when it is asked to stop, its ranks included."""
POLL_SECONDS = 0.2
LOG_TAIL = 1 << 16
"""Bytes at the end of a log that are searched for an error."""


def run_here(due: list[Run], results: Path, worker: str, progress: Progress) -> None:
    """Start, watch and publish until every due run has a record and every process has ended."""
    waiting = queues(due)
    running: dict[int, tuple[Pack, subprocess.Popen[bytes]]] = {}
    # Runs leave as their results are published.
    unpublished = {run.fingerprint: run for run in due}
    attempts = Attempts()
    try:
        while unpublished or running:
            for device, queue in enumerate(waiting):
                if device in running and running[device][1].poll() is not None:
                    pack, process = running.pop(device)
                    # Before the other batches of the device, as it began before them.
                    queue[:0] = _again(pack, process.returncode, attempts)
                if device not in running and queue:
                    pack = queue.pop(0)
                    attempts.begin(pack.runs)
                    running[device] = pack, _start(pack, worker)

            unpublished = {k: run for k, run in unpublished.items() if not deliver(run, results)}
            progress.show([pack for pack, _ in running.values()])
            time.sleep(POLL_SECONDS)
    finally:
        # Also after an error or a stop signal: no process outlives its driver.
        _stop([process for _, process in running.values()])


def _again(pack: Pack, status: int, attempts: Attempts) -> list[Pack]:
    """The runs of a batch whose process left them without a record, but for those that failed."""
    end = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    again = []
    for run in pack.runs:
        # A batch records the runs that fail in it: without a record it died itself.
        if run.finished() is not None:
            continue
        if attempts.failed(run) < MAX_PACKS:
            again.append(run)
        else:
            save_failure(run, f"its process ended with {end}{_last_words(pack)}", MAX_PACKS)
    if not again:
        return []
    say(f"a process with {len(again)} unfinished runs ended with {end}: started again")
    return [Pack(tuple(again), pack.place)]


def _start(pack: Pack, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a batch, its output going to the batch's log."""
    # Another driver may start the same runs, hence the process id.
    path = WORK / "packs" / f"{pack.runs[0].fingerprint}.{os.getpid()}.json"
    write_pack(pack, path, worker, RANK_SECONDS)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(pack.place.devices)}
    with pack.log.open("ab") as log:
        # Its own process group: Ctrl-C reaches the driver alone, which stops the batches in order.
        return subprocess.Popen(
            [sys.executable, "-m", "repro", "run-pack", str(path)],
            env=os.environ | {PARENT: str(os.getpid())} | devices,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the processes: politely, and after the grace period by force."""
    for process in processes:
        process.terminate()
    # One deadline for all: they write their checkpoints side by side.
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(pack: Pack) -> str:
    """The last error in a batch's log, and where the log is."""
    # Logs of earlier batches of that name lie before it in the same file.
    with pack.log.open("rb") as log:
        log.seek(max(0, pack.log.stat().st_size - LOG_TAIL))
        error = last_error(log.read().decode(errors="replace").splitlines())
    return (f": {error}" if error else "") + f"; see {pack.log}"
