"""Intervals and paired comparisons; every function is pure. Shares are fractions.

Two kinds of uncertainty stay apart: that of the finite evaluation set (intervals from counts and
per-image bits), and that of the training run (intervals over seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

from scipy.special import bdtr, stdtrit

from repro.intervals import Interval, wilson
from repro.report.keyed import Keyed

Pair = tuple[float | None, float | None]
"""Values of one seed under the variant and under the reference."""
Standing = Literal["below", "undecided", "above"]
"""Where an ASR lies by its whole interval: at or below the threshold, across it, or above it."""


@dataclass(frozen=True, slots=True)
class Spread(Keyed):
    """Spread between seeds."""

    seeds: int
    mean: float
    sd: float | None
    """Sample standard deviation; None for one seed."""
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Effect(Keyed):
    """Mean difference over seeds."""

    value: float
    ci: Interval | None
    """Student's; None for one seed."""
    n: int
    """Number of seeds."""
    undecided: bool
    """Whether the interval includes zero, or there is none."""


def standing(successes: int, total: int, cap: float, confidence: float) -> Standing:
    """Whether the whole Wilson interval lies at or below `cap`, above it, or neither."""
    low, high = wilson(successes, total, confidence)
    if high <= cap:
        return "below"
    return "above" if low > cap else "undecided"


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that gained and lost images are equally likely (McNemar 1947)."""
    # Twice the smaller tail; where gains and losses balance, that would exceed one.
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_difference(
    gained: int, lost: int, total: int, confidence: float
) -> tuple[float, Interval]:
    """Change of a proportion on the same `total` images, with its interval.

    Wald's interval with the added counts of Agresti and Min (2005).
    """
    z = _quantile(confidence)
    more, less, size = gained + 0.5, lost + 0.5, total + 2
    centre = (more - less) / size
    half = z * math.sqrt(more + less - (more - less) ** 2 / size) / size
    return (gained - lost) / total, (max(-1.0, centre - half), min(1.0, centre + half))


def relative_drop(
    start: int, end: int, total: int, both: int | None, confidence: float
) -> tuple[float, Interval]:
    """Lost share of the start accuracy, 1 - end/start, with its interval.

    `start`, `end`: images right before and after; `both`: right both times, None if the images are
    not paired, which gives the wider interval of independent samples. The interval is by the delta
    method on log(end/start). ValueError if no image was right at the start.
    """
    if start == 0:
        raise ValueError("relative_drop: no image was right at the start (allowed: at least one)")

    # Half an image added to each count keeps the logarithm finite where none is right at the end.
    first, last = start + 0.5, end + 0.5
    if both is None:
        variance = 1 / first - 1 / total + 1 / last - 1 / total
    else:
        variance = (first + last - 2 * (both + 0.5)) / (first * last)

    # A higher ratio is a smaller drop, so the ends change places.
    ratio = math.log(last / first)
    half = _quantile(confidence) * math.sqrt(max(0.0, variance))
    return 1 - end / start, (1 - math.exp(ratio + half), 1 - math.exp(ratio - half))


def spread(values: Sequence[float]) -> Spread:
    """Number, mean, sample standard deviation, smallest and largest of the values of seeds."""
    sd = stdev(values) if len(values) > 1 else None
    return Spread(len(values), fmean(values), sd, min(values), max(values))


def student(values: Sequence[float], confidence: float) -> Interval | None:
    """Student's interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, 0.5 + confidence / 2))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_effect(pairs: Sequence[Pair], confidence: float) -> Effect | None:
    """Mean difference over the seeds that have both values; None without such a seed."""
    differences = [
        variant - reference
        for variant, reference in pairs
        if variant is not None and reference is not None
    ]
    if not differences:
        return None
    interval = student(differences, confidence)
    undecided = interval is None or interval[0] <= 0 <= interval[1]
    mean = sum(differences) / len(differences)
    return Effect(mean, interval, len(differences), undecided)


def geometric(ratios: Sequence[float], confidence: float) -> tuple[float, Interval | None]:
    """Geometric mean of positive ratios, with Student's interval of their logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    ends = student(logs, confidence)
    return math.exp(fmean(logs)), ends and (math.exp(ends[0]), math.exp(ends[1]))


def _quantile(confidence: float) -> float:
    # Two-sided, so half of the error lies in each tail: 1.96 at 95%.
    return NormalDist().inv_cdf(0.5 + confidence / 2)
