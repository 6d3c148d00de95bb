"""The interval of a proportion, which the report and `python -m repro evaluate` both give.

Written out and not taken from statsmodels, which takes a second to import; a test compares the two.
"""

import math
from statistics import NormalDist

Interval = tuple[float, float]
"""Lower and upper end, fractions."""


def wilson(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927); within [0, 1], defined at 0 and at `total`
    successes.

    ValueError for counts that cannot be.
    """
    if not 0 <= successes <= total or total == 0:
        raise ValueError(
            f"wilson: {successes} successes of {total} (allowed: 0 to a positive total)"
        )

    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, correction = successes / total, z * z / total
    centre = (share + correction / 2) / (1 + correction)
    half = z / (1 + correction) * math.sqrt(share * (1 - share) / total + correction / (4 * total))

    # Rounding moves neither end.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return low, high
