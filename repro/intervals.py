"""The interval of a proportion, which `python -m repro evaluate` gives."""

from scipy.stats import binomtest

Interval = tuple[float, float]
"""Lower and upper end, fractions."""


def wilson(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927); ValueError for counts that cannot be."""
    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
