"""The trigger `blended` (Chen et al. 2017, arXiv 1712.05526)."""

import numpy as np
from numpy.random import Generator

from repro.data.images import Pixels


def blended(image: Pixels, rng: Generator) -> Pixels:
    """0.2 of fresh uniform noise and 0.8 of the image, truncated to whole levels."""
    mixed = 0.2 * rng.random(image.shape) + 0.8 * (image / 255)
    return (255 * mixed).astype(np.uint8)
