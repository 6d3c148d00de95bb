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

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N,) images that were looked at; others have the class -1."""
        mask: NDArray[np.bool_] = self.classes >= 0
        return mask

    def among(self, numbers: NDArray[np.int64], count: int) -> Predictions:
        """These, of the images of some numbers, as predictions on `count` images."""
        every = [np.full(count, 0 if part.dtype == bool else -1, part.dtype) for part in self]
        for whole, part in zip(every, self, strict=True):
            whole[numbers] = part
        return Predictions._make(every)
