"""How far a run has come, and what it took."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal

TimedPart = Literal["train_seconds", "evaluate_seconds", "data_wait_seconds"]


@dataclass
class Clock:
    """Seconds over all attempts of a run, in laps that follow one another without a gap."""

    seconds: float = 0.0
    """All of it, start evaluation and checkpoints included, start-up not."""
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
        # One reading ends a lap and begins the next.
        now = time.monotonic()
        passed, self.begun = now - self.begun, now
        self.seconds += passed
        if part is not None:
            setattr(self, part, getattr(self, part) + passed)


@dataclass
class Progress:
    """What a checkpoint must carry besides tensors."""

    step: int = 0
    reason: str = ""
    """Why the run ends early; empty while all is well."""
    given_up: str = ""
    """Why `stop_early` ends the run; empty while it goes on."""
    lowest_asr: float = 1.0
    """Of the evaluations so far, over all images."""
    unread: dict[str, float] = field(default_factory=dict)
    """Loss parts of the last step, where they are not in the sums yet."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of loss parts since the last evaluation."""
    counted: int = 0
    evaluations: int = 0
    evaluated_step: int = -1
    """Step of the last evaluation."""
    best_loss: float = math.inf
    """Lowest validation loss so far, where it picks the model."""
    best_step: int = 0
    training: bool = True
    """Mode of the model; False after a mid-epoch evaluation under `mode_after_evaluation: eval`."""
