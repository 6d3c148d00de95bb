"""Stop requests: signals that end a run at a point from which it can go on."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import torch

from repro.train.process import distributed

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

Stop = Callable[[], None]
"""Raises Interrupted on every rank if one rank was asked to stop. Ranks ask one another, so all
must call it equally often.
"""


class Interrupted(SystemExit):
    """One of STOP_SIGNALS arrived: the run has a checkpoint and goes on at the next start."""


@contextlib.contextmanager
def stop_requests(device: torch.device) -> Iterator[Stop]:
    """Collect stop signals instead of dying of them; gives what raises where it suits the run."""
    # A handler only takes note: an exception in the middle of a step would leave half of it done.
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _frame: received.append(got))
        for number in STOP_SIGNALS
    }

    # SystemExit with the status of a process that SIGTERM ended, whichever signal it was: 143.
    def stop() -> None:
        if distributed.any_rank(bool(received), device):
            raise Interrupted(128 + signal.SIGTERM)

    # The next run of the job, or whoever called, gets the handlers back as they were.
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
