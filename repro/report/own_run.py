"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd

from repro.intervals import student
from repro.report.judging.claims import Arms, Rules
from repro.report.measures import MEASURES, Evaluations, of_both
from repro.report.verdicts import FEWEST_SEEDS

RUN = ["dataset", "clean_size", "pretrain_objective", "loss", "learning_rate"]


def own_values(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[dict[str, Any]]:
    """Every measure of the own run's first seed in every cell, of both models and their difference.

    Both are measured at the learning rates that both have. `interval` is a prediction interval from
    the `archived` values, one a seed other than that of the own run; nothing where there are fewer
    than FEWEST_SEEDS of them.
    """
    frame, first = evaluations.frame, next(iter(arms.mmcl.values()))
    grid, of_own = pd.MultiIndex.from_frame(frame[RUN]), frame.arm == "/"
    of_archive = frame.arm.isin([first, arms.mmcl_ssl])
    of_both_grids = grid.isin(grid[of_own]) & grid.isin(grid[of_archive])
    shared = Evaluations(frame[(frame.stage == "pretrain") | of_both_grids], evaluations.context)
    for (dataset, size), measure in product(rules.cells, MEASURES):
        own = of_both(measure.of, shared.pair("/", "/", dataset, size))
        archive = of_both(measure.of, shared.pair(first, arms.mmcl_ssl, dataset, size))
        for seed in list(own["difference"])[:1]:
            others = [other for other in archive["difference"] if other != seed]
            if len(others) < FEWEST_SEEDS:
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
