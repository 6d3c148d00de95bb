"""Between a launch and its ranks: the pack file, events on standard output, and a common end.

Rank 0 of the worker reports by lines that start with `EVENT`, each one JSON object: a `StartEvent`,
`MetricsEvent` or `EndEvent`. All other lines are ordinary output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Literal, TypedDict, cast

EVENT = "::repro "
PARENT = "REPRO_PARENT"
"""Environment variable with the process id of the one that starts this process."""


class PackFile(TypedDict):
    """What the launcher tells a pack process, and that its ranks, in one JSON file."""

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
    """How long the ranks may take to write a checkpoint and end when the pack is stopped."""


class StartEvent(TypedDict):
    """The run begins, or goes on from a checkpoint."""

    event: Literal["start"]
    fingerprint: str


class MetricsEvent(TypedDict):
    """Numbers after a step: losses, or zero-shot accuracy and attack success."""

    event: Literal["metrics"]
    fingerprint: str
    step: int
    epoch: float
    values: dict[str, float]


class EndEvent(TypedDict):
    """The run has ended; it left its outcome in the work folder."""

    event: Literal["end"]
    fingerprint: str
    status: Literal["completed", "diverged", "failed"]
    reason: str
    result: dict[str, float]


Event = StartEvent | MetricsEvent | EndEvent


def emit(event: Event) -> None:
    """Report one event from rank 0, in one write on a new line that no other rank can tear."""
    line = EVENT + json.dumps(event)
    # First what Python still buffers: the event goes past its buffer, straight to the descriptor.
    sys.stdout.flush()
    os.write(1, f"\n{line}\n".encode())


def parse(line: str) -> Event | None:
    """The event in a line of output, or None for an ordinary line."""
    if not line.startswith(EVENT):
        return None
    try:
        content = json.loads(line[len(EVENT) :])
    except ValueError:
        return None

    # Not checked further: the worker that wrote it is this package's own.
    return cast(Event, content) if isinstance(content, dict) and "event" in content else None


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send `number` to this process when the one that started it dies (on Linux).

    Not inherited by children: every link of driver, pack, torchrun and rank calls it.
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, number, 0, 0, 0)

    # The parent may have died before the call above took effect; then no signal would come.
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit("the starting process has ended already")
