"""Batches of runs on this machine: one process a device, watched until every due run has a record.

The driver is asked to stop by a signal and passes it down, so that every rank writes a checkpoint.
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
from repro.launch.packs import Attempts, Pack, pack_log, queues, write_pack
from repro.launch.progress import Progress
from repro.launch.torchrun import last_error
from repro.ledger import RunOutcome
from repro.runs.deliver import deliver, save_record
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


@dataclass
class Device:
    """The batches of one device: waiting ones and the running one."""

    waiting: list[Pack]
    pack: Pack | None = None
    process: subprocess.Popen[bytes] | None = None


def run_here(due: list[Run], results: Path, worker: str, progress: Progress) -> None:
    """Start, watch and publish until every due run has a record and every process has ended."""
    devices = [Device(packs) for packs in queues(due)]
    # Runs leave as their results are published.
    unpublished = {run.fingerprint: run for run in due}
    attempts = Attempts()
    try:
        while unpublished or any(device.process for device in devices):
            for device in devices:
                if device.process is None and device.waiting:
                    device.pack = device.waiting.pop(0)
                    attempts.begin(device.pack.runs)
                    device.process = _start(device.pack, worker)
                elif device.process and device.process.poll() is not None:
                    _settle(device, attempts, progress)

            unpublished = {k: run for k, run in unpublished.items() if not deliver(run, results)}
            progress.show([device.pack for device in devices if device.pack is not None])
            time.sleep(POLL_SECONDS)
    finally:
        # Also after an error or a stop signal: no process outlives its driver.
        _stop([device.process for device in devices if device.process is not None])


def _settle(device: Device, attempts: Attempts, progress: Progress) -> None:
    """After the process of a batch ended: runs without a record get another one, or have failed."""
    pack, process = device.pack, device.process
    assert pack is not None and process is not None
    status = process.returncode
    end = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    again = []
    for run in pack.runs:
        # A batch records the runs that fail in it: without a record it died itself.
        if run.finished() is not None:
            continue
        if attempts.failed(run) < MAX_PACKS:
            again.append(run)
            continue
        reason = f"the process of its pack ended with {end}{_last_words(pack)}"
        outcome: RunOutcome = {"status": "failed", "reason": reason, "attempts": MAX_PACKS}
        save_record(run, run.record(outcome, None))

    if again:
        progress.say(f"a pack of {len(again)} unfinished runs ended with {end}: started again")
        # Before the other batches of the device, as it began before them.
        device.waiting.insert(0, Pack(tuple(again), pack.place))
    device.pack = device.process = None


def _start(pack: Pack, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a batch, its output going to `work/packs/<name>.log`."""
    # Another driver may start the same runs, hence the process id.
    path = WORK / "packs" / f"{pack.name}.{os.getpid()}.json"
    write_pack(pack, path, worker, RANK_SECONDS)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(pack.place.devices)}
    with pack_log(pack).open("ab") as log:
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
    path = pack_log(pack)
    # Logs of earlier batches of that name lie before it in the same file.
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL))
        lines = log.read().decode(errors="replace").splitlines()
    error = last_error(lines)
    return (f": {error}" if error else "") + f"; see {path}"
