"""How much of the spread is the draw of poisons, and how much the seed: the study `draws`, each
draw with a seed of its own, beside the confirmed seeds, which share one draw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import variance
from typing import Any

from scipy.stats import f as f_distribution

from repro.intervals import Interval
from repro.report.claims import Arms
from repro.report.measures import (
    Evaluations,
    Value,
    judged,
    of_both,
)
from repro.report.studies import StudyResults
from repro.report.verdicts import FEWEST_SEEDS, Estimate, estimate
from repro.spec import CleanSize, Dataset

STUDY = "draws"
COMPARED = ("asr_left_at_rate", "rate_doublings", "lost_at_cap")
"""Measures of the study's hypotheses."""
COMPARATOR = "norm_groups_64"
"""The study's MMCL models have these groups too."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of variances, or what follows from it, with its 95% interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class DrawRow:
    """MMCL + SSL less MMCL by one measure in one setting, over draws and over seeds."""

    measure: str
    title: str
    unit: str
    dataset: Dataset
    clean_size: CleanSize
    draws: int
    difference: Estimate
    """Over draws, each with a seed of its own."""
    seeds: Estimate | None
    """Over the seeds of one draw, at the same learning rates; None without them."""
    ratio: Ratio | None
    """Variance over draws by that over seeds; None for too few of either."""
    share: Ratio | None
    """Of the variance over draws that is the draw's own: 1 less the inverse of the ratio, no less
    than 0."""


def draws(
    studies: Iterable[StudyResults], evaluations: Evaluations, confirmed: Arms | None
) -> dict[str, Any] | None:
    """The rows of the study `draws`, and how many of its draws are there; None without it.

    The interval of a ratio of variances is that of the F distribution, for normal differences.
    """
    study = next((of for of in studies if of.name == STUDY), None)
    if study is None:
        return None
    frame = evaluations.frame
    shared = (frame.stage == "pretrain") | frame.learning_rate.isin(study.frame.learning_rate)
    at_same_rates = Evaluations(frame[shared], evaluations.context)
    rows = []
    compared = judged(COMPARED)
    for measure, dataset, size in product(compared, study.spec.datasets, study.spec.clean_sizes):
        of_draws: dict[int, Value] = {}
        for variant in study.spec.variants:
            pair = at_same_rates.pair(f"{STUDY}/{variant}", f"{STUDY}/{variant}", dataset, size)
            of_draws |= of_both(measure.of, pair)["difference"]
        of_seeds: Mapping[int, Value] = {}
        if confirmed and COMPARATOR in confirmed.mmcl:
            arms = confirmed.mmcl[COMPARATOR], confirmed.mmcl_ssl
            of_seeds = of_both(measure.of, at_same_rates.pair(*arms, dataset, size))["difference"]
        if of_draws:
            ratio = _ratio(of_draws, of_seeds)
            rows.append(
                DrawRow(
                    measure=measure.name,
                    title=measure.title,
                    unit=measure.unit,
                    dataset=dataset,
                    clean_size=size,
                    draws=len(of_draws),
                    difference=estimate(of_draws),
                    seeds=estimate(of_seeds) if of_seeds else None,
                    ratio=ratio,
                    share=ratio and _share(ratio),
                )
            )
    there = {run.record.spec.seed for run in study.runs} - study.seeds_due
    return {"complete": len(there), "planned": len(study.spec.variants), "rows": rows}


def _ratio(of_draws: Mapping[int, Value], of_seeds: Mapping[int, Value]) -> Ratio | None:
    counts = len(of_draws), len(of_seeds)
    if min(counts) < FEWEST_SEEDS:
        return None
    above, below = (variance(of.value for of in values.values()) for values in (of_draws, of_seeds))
    if below == 0:
        return None
    quantiles = f_distribution.ppf([0.025, 0.975], *(count - 1 for count in counts))
    low, high = (float(above / below / quantile) for quantile in quantiles[::-1])
    return Ratio(above / below, (low, high))


def _share(ratio: Ratio) -> Ratio:
    value, low, high = (
        max(0.0, 1 - 1 / of) if of else 0.0 for of in (ratio.value, *ratio.interval)
    )
    return Ratio(value, (low, high))
