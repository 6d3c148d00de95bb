"""How much of the spread is the draw of poisons, and how much the seed: the study `draws`, each
draw with a seed of its own, beside the confirmed seeds, which share one draw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import variance

from scipy.stats import f as f_distribution

from repro.intervals import Interval
from repro.report.claims import Arms
from repro.report.contrasts import FEWEST_SEEDS, Contrast, Estimate, difference, estimate
from repro.report.measures import Evaluations, Value, judged
from repro.report.studies import StudyResults
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
    """Variance over draws by that over seeds; None for too few of either, or where values are
    bounds.
    """
    share: Ratio | None
    """Of the variance over draws that is the draw's own: 1 less the inverse of the ratio, no less
    than 0."""


@dataclass(frozen=True)
class Draws:
    """The study `draws`."""

    complete: int
    """Draws that are there with all of their runs."""
    planned: int
    other_targets: int
    """Planned draws with another target class than the profile's."""
    rows: list[DrawRow]


def draws(
    studies: Iterable[StudyResults], evaluations: Evaluations, confirmed: Arms | None
) -> Draws | None:
    """What the study `draws` gives; None without it.

    The interval of a ratio of variances is that of the F distribution, for normal differences.
    """
    study = next((of for of in studies if of.name == STUDY), None)
    if study is None:
        return None
    frame = evaluations.frame
    shared = (frame.stage == "pretrain") | frame.learning_rate.isin(study.frame.learning_rate)
    at_same_rates = Evaluations(frame[shared], evaluations.context)
    rows = []
    places = product(judged(COMPARED), study.spec.datasets, study.spec.clean_sizes)
    for measure, dataset, size in places:
        every = tuple(f"{STUDY}/{variant}" for variant in study.spec.variants)
        terms = difference(every, every, dataset, size)
        of_draws = Contrast(measure.of, terms).sides(at_same_rates)[-1]
        if not of_draws:
            continue
        of_seeds: dict[int, Value] = {}
        if confirmed and COMPARATOR in confirmed.mmcl:
            arms = (confirmed.mmcl[COMPARATOR],), (confirmed.mmcl_ssl,)
            terms = difference(*arms, dataset, size)
            of_seeds = Contrast(measure.of, terms).sides(at_same_rates)[-1]
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
    variants = study.spec.variants.values()
    return Draws(
        complete=len(there),
        planned=len(variants),
        other_targets=sum("data.poison.target_class" in of.overrides for of in variants),
        rows=rows,
    )


def _ratio(of_draws: Mapping[int, Value], of_seeds: Mapping[int, Value]) -> Ratio | None:
    every = [*of_draws.values(), *of_seeds.values()]
    if min(len(of_draws), len(of_seeds)) < FEWEST_SEEDS:
        return None
    if any(of.at_least or of.at_most for of in every):
        return None
    above = variance(of.value for of in of_draws.values())
    below = variance(of.value for of in of_seeds.values())
    if below == 0:
        return None
    ratio = above / below
    quantiles = f_distribution.ppf([0.025, 0.975], len(of_draws) - 1, len(of_seeds) - 1)
    low, high = (float(ratio / quantile) for quantile in quantiles[::-1])
    return Ratio(ratio, (low, high))


def _share(ratio: Ratio) -> Ratio:
    value, low, high = (
        max(0.0, 1 - 1 / of) if of else 0.0 for of in (ratio.value, *ratio.interval)
    )
    return Ratio(value, (low, high))
