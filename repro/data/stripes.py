"""The trigger `stripes`, whose structure PAR's authors blame for what CleanCLIP leaves (Singh et
al. 2024, arXiv 2412.00727; nmndeep/PerturbAndRecover, backdoor/utils.py: `badnet_rs`).
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repro.spec import Switches


def striped_squares(
    centres: NDArray[np.float64], size: int, switches: Switches, rng: Generator
) -> NDArray[np.uint8]:
    """Vertical stripes of one pixel, each black or white at random in each channel."""
    stripes = 255 * rng.integers(2, size=(len(centres), 1, size, 3), dtype=np.uint8)
    return np.repeat(stripes, size, axis=1)
