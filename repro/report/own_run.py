"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from repro.intervals import Interval
from repro.report.judging.claims import Arms, Rules
from repro.report.measures import MEASURES, Evaluations, of_both
from repro.report.verdicts import FEWEST_SEEDS


def own_values(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[dict[str, Any]]:
    """Every measure of the own run's first seed in every cell, of both models and their difference.

    `interval` is a prediction interval from the `archived` values, one a seed other than that of
    the own run; nothing where there are fewer than FEWEST_SEEDS of them.
    """
    first = next(iter(arms.mmcl.values()))
    for (dataset, size), measure in product(rules.cells, MEASURES):
        own = of_both(measure.of, evaluations.pair("/", "/", dataset, size))
        archive = of_both(measure.of, evaluations.pair(first, arms.mmcl_ssl, dataset, size))
        for seed in list(own["difference"])[:1]:
            others = [other for other in archive["difference"] if other != seed]
            if len(others) < FEWEST_SEEDS:
                continue
            for side, values in own.items():
                value = values[seed].value
                archived = [archive[side][other].value for other in others]
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
    half = stdtrit(n - 1, 0.975) * stdev(values) * math.sqrt(1 + 1 / n)
    return fmean(values) - half, fmean(values) + half
