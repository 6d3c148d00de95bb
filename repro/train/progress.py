"""How far a run has come, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Progress:
    """What a checkpoint must carry besides tensors."""

    step: int = 0
    reason: str = ""
    """Why the run ends early; empty while all is well."""
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
    """Mode of the model: False between a mid-epoch evaluation and the epoch's end under
    `mode_after_evaluation: eval`.
    """
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files of the model that was kept."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended and what it took; the fields are those of `repro.ledger.RunRecord`."""

    status: Literal["completed", "diverged"]
    reason: str
    ranks: int
    threads: int
    seconds: float
    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    peak_memory_bytes: int
    num_samples: int
    model_step: int
    deterministic: bool
    files: dict[str, str]
