"""Packs on this machine: one process a place, watched until every due run has a record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from repro.events import PARENT
from repro.launch.board import Board
from repro.launch.packs import Pack, pack_log, write_pack
from repro.launch.places import TRAINING_ENVIRONMENT
from repro.runs.deliver import deliver, save_record
from repro.runs.layout import WORK
from repro.runs.run import Run

PACK_TRIES = 2
"""Starts of a pack process for the same run before the run counts as failed."""
GRACE_SECONDS = 30
"""Time for running packs to write a checkpoint and end when the driver is stopped."""


@dataclass
class _Queue:
    """The packs of one slot: waiting ones and the running one."""

    waiting: list[Pack]
    pack: Pack | None = None
    process: subprocess.Popen[bytes] | None = None
    tries: Counter[str] = field(default_factory=Counter)


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
            for run in [run for run in unpublished.values() if deliver(run, results)]:
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
            save_record(
                run,
                run.record({"status": "failed", "reason": reason, "attempts": PACK_TRIES}, None),
            )
    if again:
        slot.waiting.insert(0, Pack(again, slot.pack.slot))
    slot.pack = slot.process = None


def _start(pack: Pack, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a pack, its output going to `work/packs/<name>.log`."""
    path = (
        WORK / "packs" / f"{pack.name}.{os.getpid()}.json"
    )  # another driver may start the same runs
    write_pack(pack, path, worker)
    environment = os.environ | {
        PARENT: str(os.getpid()),
        "CUDA_VISIBLE_DEVICES": ",".join(pack.slot.devices),
        "OMP_NUM_THREADS": str(pack.slot.threads),
        **TRAINING_ENVIRONMENT,
    }
    with pack_log(pack).open("ab") as log:
        # Its own process group: Ctrl-C in the terminal reaches the driver alone, which then stops the packs in order.
        command = [sys.executable, "-m", "repro", "run-pack", str(path)]
        return subprocess.Popen(
            command,
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
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _exit(code: int) -> str:
    """An exit status in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
