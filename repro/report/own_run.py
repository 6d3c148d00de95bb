"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.special import stdtrit

from repro.intervals import Interval
from repro.report.judging.claims import Arms, Rules
from repro.report.measures import MEASURES, Context, Evaluations
from repro.report.verdicts import FEWEST_SEEDS, OWN
from repro.spec import CleanSize, Dataset

Of = Literal["mmcl", "mmcl_ssl", "difference"]


@dataclass(frozen=True, slots=True)
class OwnValue:
    """A measure of one's own run beside the archive's seeds."""

    measure: str
    dataset: Dataset
    clean_size: CleanSize
    of: Of
    value: float
    archived: list[float]
    """One value a seed of the archive, without the seed of the own run."""
    interval: Interval
    """95% prediction interval for one more seed (Student's)."""
    inside: bool


def own_values(
    evaluations: Evaluations, arms: Arms, rules: Rules, context: Context
) -> Iterator[OwnValue]:
    """Every measure of the own run's first seed in every cell, of both models and their difference.

    Nothing where the archive has fewer than FEWEST_SEEDS other seeds.
    """
    first = next(iter(arms.mmcl.values()))
    for dataset, size in rules.cells:
        own, archive = (
            list(evaluations.pair(*of, dataset, size).values())
            for of in (("/", "/"), (first, arms.mmcl_ssl))
        )
        common = sorted(own[0].keys() & own[1].keys())
        if arms == OWN or not common:
            continue
        others = sorted((archive[0].keys() & archive[1].keys()) - {common[0]})
        for measure in MEASURES:
            mine = [measure.of(models[common[0]], context) for models in own]
            values = [[measure.of(models[seed], context) for seed in others] for models in archive]
            pairs = [(a.value, b.value) for a, b in zip(*values, strict=True) if a and b]
            if mine[0] is None or mine[1] is None or len(pairs) < FEWEST_SEEDS:
                continue
            mmcl, ssl = mine[0].value, mine[1].value
            sides: dict[Of, tuple[float, list[float]]] = {
                "mmcl": (mmcl, [a for a, _ in pairs]),
                "mmcl_ssl": (ssl, [b for _, b in pairs]),
                "difference": (ssl - mmcl, [b - a for a, b in pairs]),
            }
            for of, (value, archived) in sides.items():
                low, high = prediction_interval(archived)
                inside = low <= value <= high
                yield OwnValue(
                    measure.name, dataset, size, of, value, archived, (low, high), inside
                )


def prediction_interval(values: Sequence[float]) -> Interval:
    """95% interval for one more value of a normal sample (Student's); at least two values."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * stdev(values) * math.sqrt(1 + 1 / n)
    return fmean(values) - half, fmean(values) + half
