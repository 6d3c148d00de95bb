"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from repro.intervals import Interval
from repro.report.judging.claims import Arms, Rules
from repro.report.measures import MEASURES, Context, Evaluations
from repro.report.verdicts import FEWEST_SEEDS


def own_values(
    evaluations: Evaluations, arms: Arms, rules: Rules, context: Context
) -> Iterator[dict[str, Any]]:
    """Every measure of the own run's first seed in every cell, of both models and their difference.

    `interval` is a prediction interval from the `archived` values, one a seed other than that of
    the own run; nothing where there are fewer than FEWEST_SEEDS of them.
    """
    first = next(iter(arms.mmcl.values()))
    for dataset, size in rules.cells:
        own = evaluations.pair("/", "/", dataset, size)
        archive = evaluations.pair(first, arms.mmcl_ssl, dataset, size)
        for seed in sorted(own["mmcl"].keys() & own["mmcl_ssl"].keys())[:1]:
            for measure in MEASURES:
                mine = [measure.of(models[seed], context) for models in own.values()]
                mmcl, ssl = (measure.of_seeds(models, context) for models in archive.values())
                others = [other for other in mmcl if other in ssl and other != seed]
                if mine[0] is None or mine[1] is None or len(others) < FEWEST_SEEDS:
                    continue
                pairs = [(mmcl[other].value, ssl[other].value) for other in others]
                sides = {
                    "mmcl": (mine[0].value, [a for a, _ in pairs]),
                    "mmcl_ssl": (mine[1].value, [b for _, b in pairs]),
                    "difference": (mine[1].value - mine[0].value, [b - a for a, b in pairs]),
                }
                for side, (value, archived) in sides.items():
                    low, high = prediction_interval(archived)
                    yield {
                        "measure": measure.name,
                        "dataset": dataset,
                        "clean_size": size,
                        "of": side,
                        "value": value,
                        "archived": archived,
                        "interval": (low, high),
                        "inside": low <= value <= high,
                    }


def prediction_interval(values: Sequence[float]) -> Interval:
    """95% interval for one more value of a normal sample (Student's); at least two values."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * stdev(values) * math.sqrt(1 + 1 / n)
    return fmean(values) - half, fmean(values) + half
