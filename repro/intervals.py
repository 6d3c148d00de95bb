"""Intervals of a proportion and of a mean over seeds, and how many seeds a test needs."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit
from scipy.stats import binomtest, nct

Interval = tuple[float, float]
"""Lower and upper end."""


def wilson(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927); ValueError for counts that cannot be."""
    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def student(values: Sequence[float], confidence: float, *, further: int = 0) -> Interval:
    """Interval of the mean of a normal sample of at least two values, or, with `further`, of the
    mean of so many further values.
    """
    n = len(values)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * stdev(values)
    half *= math.sqrt(1 / n + (1 / further if further else 0))
    return fmean(values) - half, fmean(values) + half


def values_needed(deviation: float, mean: float, level: float, power: float = 0.8) -> int:
    """Size of a normal sample in which Student's one-sided test at `level` sees `mean` > 0 with
    probability `power`, where values have the standard deviation `deviation`.
    """
    size = 2
    while True:
        beyond = float(stdtrit(size - 1, 1 - level))
        if nct.sf(beyond, size - 1, mean / deviation * math.sqrt(size)) >= power:
            return size
        size += 1
