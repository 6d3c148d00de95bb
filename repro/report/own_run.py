"""One's own run against the archived seeds: is it one more draw from the same distribution?"""

from collections.abc import Iterator, Mapping
from itertools import product
from statistics import fmean
from typing import TypedDict

import pandas as pd

from repro.intervals import Interval, student
from repro.report.cells import DATASETS, OBJECTIVES
from repro.report.claims import Arms, Rules
from repro.report.measures import Evaluations, judged, of_both
from repro.report.points import start_models
from repro.report.verdicts import FEWEST_SEEDS

RUN = ["dataset", "clean_size", "pretrain_objective", "loss", "learning_rate"]


class OwnValue(TypedDict):
    """A measure of the own run beside those of the archived seeds."""

    measure: str
    dataset: str
    clean_size: str | None
    """None for a measure before cleaning."""
    of: str
    """Pre-training objective, or `difference`."""
    seeds: list[int]
    """Of the own run."""
    value: float
    """Mean over `seeds`."""
    archived: list[float]
    """One a seed of the archive that is none of the own run's."""
    interval: Interval
    """95% prediction interval of such a mean from `archived`."""
    inside: bool


def own_values(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[OwnValue]:
    """Every measure of the own run in every cell, of both models and their difference.

    Both are measured at the learning rates that both have. Nothing where there are fewer than
    FEWEST_SEEDS other seeds.
    """
    frame, first = evaluations.frame, next(iter(arms.mmcl.values()))
    grid, of_own = pd.MultiIndex.from_frame(frame[RUN]), frame.arm == "/"
    of_archive = frame.arm.isin([first, arms.mmcl_ssl])
    of_both_grids = grid.isin(grid[of_own]) & grid.isin(grid[of_archive])
    shared = Evaluations(frame[(frame.stage == "pretrain") | of_both_grids], evaluations.context)
    for (dataset, size), measure in product(rules.cells, judged(rules.measures)):
        own = of_both(measure.of, shared.pair("/", "/", dataset, size))
        archive = of_both(measure.of, shared.pair(first, arms.mmcl_ssl, dataset, size))
        for side, values in own.items():
            place = (measure.name, dataset, size, side)
            both = ({seed: of.value for seed, of in m.items()} for m in (values, archive[side]))
            yield from _compared(*place, *both)


def own_starts(evaluations: Evaluations, arms: Arms) -> Iterator[OwnValue]:
    """Accuracy and ASR before cleaning, of every model, as `own_values` has the measures."""
    archived = {"mmcl": next(iter(arms.mmcl.values())), "mmcl_ssl": arms.mmcl_ssl}
    for dataset, objective in product(DATASETS, OBJECTIVES):
        own, archive = (
            start_models(evaluations.rows(arm, dataset, objective)).set_index("seed")
            for arm in ("/", archived[objective])
        )
        for name in ("accuracy", "asr"):
            place = (f"start_{name}", dataset, None, objective)
            yield from _compared(*place, own[name].to_dict(), archive[name].to_dict())


def _compared(
    measure: str,
    dataset: str,
    size: str | None,
    side: str,
    own: Mapping[int, float],
    archive: Mapping[int, float],
) -> Iterator[OwnValue]:
    archived = [value for seed, value in archive.items() if seed not in own]
    if not own or len(archived) < FEWEST_SEEDS:
        return
    value, interval = fmean(own.values()), student(archived, 0.95, further=len(own))
    yield {
        "measure": measure,
        "dataset": dataset,
        "clean_size": size,
        "of": side,
        "seeds": sorted(own),
        "value": value,
        "archived": archived,
        "interval": interval,
        "inside": interval[0] <= value <= interval[1],
    }
