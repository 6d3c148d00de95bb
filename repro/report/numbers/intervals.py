"""Intervals and paired comparisons; every function is pure. Shares are fractions.

Two kinds of uncertainty stay apart: that of the finite evaluation set (intervals from counts and
per-image bits), and that of the training run (spread over seeds).

Distributions are scipy.special's, which loads in a seventh of a second. The formulas on top are
written out: scipy.stats and statsmodels take three seconds to load, which is longer than a report
is verified, and neither has the intervals of a relative drop or of a difference of estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from scipy.special import bdtr, stdtrit

from repro.intervals import Interval, wilson
from repro.report.schema.base import Effect, Spread
from repro.report.schema.results import Standing

Pair = tuple[float | None, float | None]
"""What a seed gave under the variant and under the reference."""


def standing(successes: int, total: int, cap: float, confidence: float) -> Standing:
    """Whether a proportion lies at or below `cap` by its whole interval, above it, or neither."""
    # Undecided where the interval straddles the cap: then the images are too few to tell.
    low, high = wilson(successes, total, confidence)
    if high <= cap:
        return "below"
    return "above" if low > cap else "undecided"


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that images won and images lost are equally likely.

    McNemar 1947 in its binomial form.
    """
    # Twice the smaller tail; where gains and losses balance, that would exceed one.
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_difference(
    gained: int, lost: int, total: int, confidence: float
) -> tuple[float, Interval]:
    """Change of a proportion on the same `total` images, with its interval.

    Wald's with the added counts of Agresti and Min (2005).
    """
    # Half a gain and half a loss added keep the width positive where nothing changed.
    z = _quantile(confidence)
    more, less, size = gained + 0.5, lost + 0.5, total + 2
    centre = (more - less) / size
    half = z * math.sqrt(more + less - (more - less) ** 2 / size) / size

    # The estimate itself is the plain one: only the interval's centre is shrunk.
    return (gained - lost) / total, (max(-1.0, centre - half), min(1.0, centre + half))


def relative_drop(
    start: int, end: int, total: int, both: int | None, confidence: float
) -> tuple[float, Interval]:
    """Share of the start accuracy that is lost, 1 - end/start, with its interval.

    `start`, `end`: images right before and after; `both`: right both times, None if the images are
    not paired, which gives the wider interval of independent samples. The interval is by the delta
    method on log(end/start). ValueError if no image was right at the start.
    """
    if start == 0:
        raise ValueError("relative_drop: no image was right at the start (allowed: at least one)")

    # Half an image added to each count keeps the logarithm finite where none is right at the end.
    first, last = start + 0.5, end + 0.5

    # Variance of log(end/start): of two shares that know nothing of each other, or, on the same
    # images, only of those that changed sides.
    if both is None:
        variance = 1 / first - 1 / total + 1 / last - 1 / total
    else:
        variance = (first + last - 2 * (both + 0.5)) / (first * last)

    # Symmetric on the logarithm; a higher ratio is a smaller drop, so the ends change places.
    ratio = math.log(last / first)
    half = _quantile(confidence) * math.sqrt(max(0.0, variance))
    return 1 - end / start, (1 - math.exp(ratio + half), 1 - math.exp(ratio - half))


def difference(a: float, a_ci: Interval, b: float, b_ci: Interval) -> tuple[float, Interval]:
    """a - b of two independent estimates, with an interval recovered from theirs.

    MOVER (Newcombe 1998, method 10).
    """
    # The low end is reached where a is low and b is high, the high end the other way round.
    low = a - b - math.hypot(a - a_ci[0], b_ci[1] - b)
    high = a - b + math.hypot(a_ci[1] - a, b - b_ci[0])
    return a - b, (low, high)


def spread(values: Sequence[float]) -> Spread:
    """Between seeds: number, mean, sample standard deviation, smallest and largest."""
    return {
        "seeds": len(values),
        "mean": fmean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def student(values: Sequence[float], confidence: float) -> Interval | None:
    """Interval of the mean of a few independent values, as those of seeds (Student 1908).

    None for fewer than two.
    """
    if len(values) < 2:
        return None

    # Few seeds: Student's t with n - 1 degrees of freedom, 12.7 for two seeds at 95%.
    quantile = float(stdtrit(len(values) - 1, 0.5 + confidence / 2))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_effect(pairs: Sequence[Pair], confidence: float) -> Effect | None:
    """Mean difference over seeds; `undecided` unless its interval leaves zero out.

    None where no seed has both.
    """
    # Only seeds that have both: a difference takes a pair.
    differences = [
        variant - reference
        for variant, reference in pairs
        if variant is not None and reference is not None
    ]
    if not differences:
        return None

    # Over one seed there is no interval, and so nothing is decided.
    interval = student(differences, confidence)
    return {
        "value": sum(differences) / len(differences),
        "ci": interval,
        "n": len(differences),
        "undecided": interval is None or interval[0] <= 0 <= interval[1],
    }


def geometric(ratios: Sequence[float], confidence: float) -> tuple[float, Interval | None]:
    """Geometric mean of positive ratios, with Student's interval of their logarithms.

    No interval for fewer than two.
    """
    logs = [math.log(ratio) for ratio in ratios]
    ends = student(logs, confidence)
    return math.exp(fmean(logs)), ends and (math.exp(ends[0]), math.exp(ends[1]))


def geometric_spread(ratios: Sequence[float]) -> Spread:
    """Between seeds, of positive ratios: geometric mean, and the standard deviation as a factor."""
    logs = spread([math.log(ratio) for ratio in ratios])
    return {
        "seeds": logs["seeds"],
        "mean": math.exp(logs["mean"]),
        "sd": None if logs["sd"] is None else math.exp(logs["sd"]),
        "min": min(ratios),
        "max": max(ratios),
    }


def _quantile(confidence: float) -> float:
    # Two-sided, so half of the error lies in each tail: 1.96 at 95%.
    return NormalDist().inv_cdf(0.5 + confidence / 2)
