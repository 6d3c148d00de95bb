"""Intervals of a proportion and of a mean over seeds."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit
from scipy.stats import binomtest

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
