"""Intervals, paired comparisons and honest selection; every function is pure.

Two kinds of uncertainty stay apart: that of the finite evaluation set (intervals from counts and per-image bits), and
that of the training run (spread over seeds). Shapes: R = evaluations, N = images, S = splits. Fractions throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repro.intervals import Interval, wilson

Standing = Literal["below", "undecided", "above"]


def standing(successes: int, total: int, cap: float, confidence: float) -> Standing:
    """Whether a proportion lies at most at `cap` by its whole interval, above it, or cannot be told."""
    low, high = wilson(successes, total, confidence)
    return "below" if high <= cap else "above" if low > cap else "undecided"


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that images won and images lost are equally likely (McNemar 1947, binomial form)."""
    total, smaller = gained + lost, min(gained, lost)
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        - total * math.log(2)
        for k in range(smaller + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def paired_difference(
    gained: int, lost: int, total: int, confidence: float
) -> tuple[float, Interval]:
    """Change of a proportion on the same `total` images, with its interval (Wald with Agresti and Min's added counts)."""
    z = _quantile(confidence)
    more, less, size = gained + 0.5, lost + 0.5, total + 2
    centre = (more - less) / size
    half = z * math.sqrt(more + less - (more - less) ** 2 / size) / size
    return (gained - lost) / total, (max(-1.0, centre - half), min(1.0, centre + half))


def relative_drop(
    start: int, end: int, total: int, both: int | None, confidence: float
) -> tuple[float, Interval]:
    """Share of the start accuracy that is lost, 1 - end/start, with its interval by the delta method on log(end/start).

    `start`, `end`: images right before and after; `both`: right both times, None if the images are not paired, which
    gives the wider interval of independent samples.
    """
    if start == 0:
        raise ValueError("relative_drop: no image was right at the start (allowed: at least one)")
    first, last = start + 0.5, end + 0.5
    independent = 1 / first - 1 / total + 1 / last - 1 / total
    variance = independent if both is None else (first + last - 2 * (both + 0.5)) / (first * last)
    ratio = math.log(last / first)
    half = _quantile(confidence) * math.sqrt(max(0.0, variance))
    return 1 - end / start, (1 - math.exp(ratio + half), 1 - math.exp(ratio - half))


def difference(a: float, a_ci: Interval, b: float, b_ci: Interval) -> tuple[float, Interval]:
    """a - b of two independent estimates, with an interval recovered from theirs (MOVER; Newcombe 1998, method 10)."""
    low = a - b - math.hypot(a - a_ci[0], b_ci[1] - b)
    high = a - b + math.hypot(a_ci[1] - a, b - b_ci[0])
    return a - b, (low, high)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Between seeds: number, mean, sample standard deviation (None for one seed), smallest and largest."""
    return {
        "seeds": len(values),
        "mean": fmean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def student(values: Sequence[float], confidence: float) -> Interval | None:
    """Interval of the mean of a few independent values, as those of seeds (Student 1908); None for fewer than two."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    half = (
        float(stdtrit(len(values) - 1, 0.5 + confidence / 2))
        * stdev(values)
        / math.sqrt(len(values))
    )
    return fmean(values) - half, fmean(values) + half


@dataclass(frozen=True, slots=True)
class Selection:
    """Best accuracy at ASR <= cap, chosen on one half of the images and measured on the other, over many splits."""

    splits: int
    chosen: int
    """Splits in which some evaluation met the cap on the choosing half."""
    naive: float | None
    """Chosen and measured on all images, as the paper does."""
    accuracy: float | None
    """Mean accuracy on the other half."""
    accuracy_range: Interval | None
    """2.5% and 97.5% quantiles over splits."""
    asr: float | None
    """Mean ASR on the other half."""
    held: float | None
    """Share of the choices that meet the cap on the other half as well."""


def select_on_halves(
    correct: NDArray[np.bool_],
    attacked: NDArray[np.bool_],
    attackable: NDArray[np.bool_],
    cap: float,
    splits: int,
    seed: int,
) -> Selection:
    """Repeat the choice of Table 1 honestly.

    `correct`, `attacked`: (R, N); `attackable`: (N,), the images in the denominator of the ASR. Ties in accuracy go to
    the lower ASR, then to the earlier evaluation.
    """
    images = correct.shape[1]
    generator = np.random.Generator(np.random.PCG64(seed))
    halves = np.stack(
        [generator.permutation(images) < images // 2 for _ in range(splits)]
    )  # (S, N)
    masks = (
        np.concatenate([halves, np.ones((1, images), bool)]).astype(np.float32).T
    )  # (N, S + 1), the last one for all images

    def count(bits: NDArray[np.bool_]) -> NDArray[np.float64]:
        return (bits.astype(np.float32) @ masks).astype(
            np.float64
        )  # (..., S + 1), exact below 2^24

    sizes, bases, hits = (
        count(np.ones(images, bool)),
        count(attackable),
        count(attacked & attackable),
    )
    able = np.flatnonzero(
        (hits / bases <= cap).any(1)
    )  # only these can be chosen, so only their accuracy is counted
    hits, right = hits[able], count(correct[able])
    accuracy, asr = right / sizes, hits / bases
    best = _best(accuracy[:, -1], asr[:, -1], cap)
    naive = None if best is None else float(accuracy[best, -1])
    accuracies, rates = [], []
    for split in range(splits):
        row = _best(accuracy[:, split], asr[:, split], cap)
        if row is not None:
            accuracies.append(
                float((right[row, -1] - right[row, split]) / (sizes[-1] - sizes[split]))
            )
            rates.append(float((hits[row, -1] - hits[row, split]) / (bases[-1] - bases[split])))
    if not accuracies:
        return Selection(splits, 0, naive, None, None, None, None)
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return Selection(
        splits=splits,
        chosen=len(accuracies),
        naive=naive,
        accuracy=fmean(accuracies),
        accuracy_range=(float(low), float(high)),
        asr=fmean(rates),
        held=sum(rate <= cap for rate in rates) / len(rates),
    )


def threshold_sweep(accuracy: Sequence[float], asr: Sequence[float]) -> list[tuple[float, float]]:
    """Best accuracy as a function of the ASR cap: its steps (cap, accuracy), in rising order of both."""
    steps: list[tuple[float, float]] = []
    for rate, value in sorted(
        zip(asr, accuracy, strict=True), key=lambda pair: (pair[0], -pair[1])
    ):
        if not steps or value > steps[-1][1]:
            steps.append((rate, value))
    return steps


def best_of_n(scores: Sequence[float], confidence: float) -> list[tuple[int, float, float, float]]:
    """Median best score after trying n learning rates, with a simultaneous band (opda, DKW): rows (n, low, median, high).

    `scores`: the best accuracy at ASR <= cap of each run, 0 where none met the cap. Treats the learning rates as draws
    from one distribution, which a grid is only roughly.
    """
    from opda.nonparametric import EmpiricalDistribution

    sizes = np.arange(1, len(scores) + 1)
    low, middle, high = EmpiricalDistribution.confidence_bands(
        ys=np.asarray(scores, float), confidence=confidence, a=0.0, b=1.0, method="dkw"
    )  # lower band of the CDF is the upper one of the scores
    curves = [dist.quantile_tuning_curve(sizes) for dist in (high, middle, low)]
    return [
        (int(n), float(lo), float(mid), float(hi))
        for n, lo, mid, hi in zip(sizes, *curves, strict=True)
    ]


def _best(accuracy: NDArray[np.float64], asr: NDArray[np.float64], cap: float) -> int | None:
    allowed = np.flatnonzero(asr <= cap)
    if not allowed.size:
        return None
    order = np.lexsort((allowed, asr[allowed], -accuracy[allowed]))
    return int(allowed[order[0]])


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)
