"""The evaluation images as a validation part, on which settings are chosen, and a test part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repro.data.keyed import keyed_order

KEY = "validation"
SHARE = 3
"""One image in three, of each class, is for validation."""


def validation_mask(keys: Sequence[bytes], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are for validation, (N,): of each class the third that comes first by the keyed
    hash of the images' keys.

    `keys`: of a store's index, N of them; `labels`: (N,). The split depends on the images alone.
    """
    mask = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = keyed_order([keys[i] for i in members.tolist()], KEY)
        # The nearest whole number of images to a third of the class.
        mask[members[order[: (len(members) + 1) // SHARE]]] = True
    return mask
