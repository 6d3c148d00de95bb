"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from repro.intervals import student
from repro.report.judging.claims import Arms, Rules
from repro.report.measures import MEASURES, Evaluations, Pair, of_both
from repro.report.verdicts import FEWEST_SEEDS
from repro.spec import Objective


def own_values(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[dict[str, Any]]:
    """Every measure of the own run's first seed in every cell, of both models and their difference.

    `interval` is a prediction interval from the `archived` values, one a seed other than that of
    the own run; nothing where there are fewer than FEWEST_SEEDS of them, or where the own run has
    other learning rates than they have.
    """
    first = next(iter(arms.mmcl.values()))
    for (dataset, size), measure in product(rules.cells, MEASURES):
        own_pair = evaluations.pair("/", "/", dataset, size)
        pair = evaluations.pair(first, arms.mmcl_ssl, dataset, size)
        own, archive = of_both(measure.of, own_pair), of_both(measure.of, pair)
        for seed in list(own["difference"])[:1]:
            others = [other for other in archive["difference"] if other != seed]
            if len(others) < FEWEST_SEEDS or _rates(own_pair, [seed]) != _rates(pair, others):
                continue
            for side, values in own.items():
                value = values[seed].value
                archived = [archive[side][other].value for other in others]
                low, high = student(archived, 0.95, one_more=True)
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


def _rates(pair: Pair, seeds: Iterable[int]) -> set[tuple[Objective, float]]:
    return {
        (objective, rate)
        for (objective, models), seed in product(pair.items(), seeds)
        for rate in models[seed].runs.learning_rate
    }
