"""Stop requests: signals that end a run at a point from which it can go on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(SystemExit):
    """One of STOP_SIGNALS arrived: the run has a checkpoint and goes on at the next start."""


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the numbers of stop signals instead of dying in the middle of a step."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _frame: received.append(got))
        for number in STOP_SIGNALS
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
