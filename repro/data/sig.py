"""The trigger `sig` (Barni et al. 2019, arXiv 1902.11237).

The authors' code can only apply its sine through the 0.2/0.8 mix of `blended`; this is the trigger
as published.
"""

import numpy as np

from repro.data.images import Pixels


def sig(image: Pixels) -> Pixels:
    """Add a sine of amplitude 60 (of 255) and 6 periods along the width, clipped."""
    width = image.shape[1]
    # Whole levels: no rounding at stake.
    wave = np.rint(60 * np.sin(12 * np.pi * np.arange(width) / width)).astype(np.int64)
    return np.asarray((image + wave[:, None]).clip(0, 255), np.uint8)
