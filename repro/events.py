"""Between a launch and its ranks: events on standard output, and a common end.

Rank 0 of the worker reports by lines that start with `EVENT`, each one JSON object:
- `{"event": "start", "fingerprint": F, "step": N}`: the run begins, or goes on after step N;
- `{"event": "metrics", "fingerprint": F, "step": N, "epoch": x, "values": {name: number}}`;
- `{"event": "end", "fingerprint": F, "status": "completed|diverged|failed", "reason": "", "result": {name: number}}`.
All other lines are ordinary output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

EVENT = "::repro "
PARENT = "REPRO_PARENT"
"""Environment variable with the process id of the one that starts this process."""


def emit(event: str, fingerprint: str, **fields: Any) -> None:
    """Report one event from rank 0: one write that begins on a new line, so that other ranks cannot tear it."""
    line = EVENT + json.dumps({"event": event, "fingerprint": fingerprint, **fields})
    sys.stdout.flush()
    os.write(1, f"\n{line}\n".encode())


def parse(line: str) -> dict[str, Any] | None:
    """The event in a line of output, or None for an ordinary line."""
    if not line.startswith(EVENT):
        return None
    try:
        return dict(json.loads(line[len(EVENT) :]))
    except ValueError:
        return None


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies (Linux; elsewhere nothing happens).

    Not inherited by children: every link of driver, pack, torchrun and rank calls it.
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit("the starting process has ended already")
