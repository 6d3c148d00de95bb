"""Wall time of a run, by what it went into."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

TimedPart = Literal["train_seconds", "evaluate_seconds", "data_wait_seconds"]


@dataclass
class Clock:
    """Seconds over all attempts of a run; laps follow one another without a gap, so that nothing is
    lost between them.
    """

    seconds: float = 0.0
    """All of it, start evaluation and checkpoints included; start-up, before the clock exists, is
    not.
    """
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    """From the end of a step until the next batch is there."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from here: what came before belongs to no part."""
        self.begun = time.monotonic()

    def lap(self, part: TimedPart | None = None) -> None:
        """The time since the last lap was spent on `part`, or on nothing that has a name."""
        now = time.monotonic()
        passed, self.begun = now - self.begun, now
        self.seconds += passed
        if part is not None:
            setattr(self, part, getattr(self, part) + passed)
