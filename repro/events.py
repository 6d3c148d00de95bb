"""Between a launch and its ranks: the file of a job, events on standard output, a common end.

Rank 0 of the worker reports by lines that start with `EVENT`, each one JSON object. All other lines
are ordinary output.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, TypedDict

EVENT = "::repro "
PARENT = "REPRO_PARENT"
"""Environment variable with the process id of the one that starts this process."""


class JobFile(TypedDict):
    """What the launcher tells the process of a job, and that its ranks."""

    runs: list[str]
    """Fingerprints, in the order of their start."""
    work: str
    """Folder that holds a work folder for each fingerprint."""
    worker: str
    """Module that torchrun runs on each rank."""
    ranks: int
    """Of all nodes together."""
    nodes: int
    threads: int
    """Processor cores of a rank."""
    devices: list[str]
    """CUDA devices of a node; empty where the processor trains."""
    in_job: bool
    """Whether devices and threads are the Slurm job's, which the launcher could not know."""
    grace_seconds: float
    """Time for the ranks to write a checkpoint and end when they are stopped."""


Event = dict[str, Any]
"""Of a run, by `event` and `fingerprint`:

- `start`: it begins, or goes on from a checkpoint;
- `metrics`: `values` after a `step` and `epoch`, losses or zero-shot accuracy and attack success;
- `end`: it left its outcome in the work folder; `status`, `reason`, `result`.
"""


def emit(event: Event) -> None:
    """Report one event from rank 0, in one write on a new line that no other rank can tear."""
    line = EVENT + json.dumps(event)
    # First what Python still buffers: the event goes past its buffer, straight to the descriptor.
    sys.stdout.flush()
    os.write(1, f"\n{line}\n".encode())


def parse(line: str) -> Event | None:
    """The event in a line of output, or None for an ordinary line."""
    # Not checked further: the worker that wrote it is this package's own, and a pipe takes so short
    # a line whole.
    return dict(json.loads(line[len(EVENT) :])) if line.startswith(EVENT) else None


def say(line: str) -> None:
    """Print a line; a full disk under the log does not end the training."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def end(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """End the processes: politely, and by force those that are there after so many seconds."""
    for process in processes:
        process.terminate()
    # One deadline for all: ranks write their checkpoints side by side.
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            # Not `wait`: what a process still prints would fill its pipe and block it.
            process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send `number` to this process when the one that started it dies (on Linux).

    Children do not inherit it: every process between driver and rank calls it.
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, number, 0, 0, 0)

    # The parent may have died before the call above took effect; then no signal would come.
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit("the starting process has ended already")
