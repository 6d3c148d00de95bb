"""What an evaluation hands to the training loop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Predictions(NamedTuple):
    """What a model made of every evaluation image; N = evaluation images."""

    correct: NDArray[np.bool_]
    """(N,) classified right without a trigger."""
    attacked: NDArray[np.bool_]
    """(N,) classified as the target with it."""
    classes: NDArray[np.int64]
    """(N,) predicted classes without a trigger."""
    classes_triggered: NDArray[np.int64]
    """(N,) predicted classes with it."""
