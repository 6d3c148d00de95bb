"""How much of a result is rounding: equal trainings of one seed whose sums were rounded otherwise.

The studies' archives hold the unchanged profile from two kinds of processor, and
`results/replicates` holds an archive of the seeds 10 to 12 from before a change of code that leaves
the mathematics as it is. Neither is part of a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import pandas as pd

from repro.report.studies.frames import archive_frame, outcomes
from repro.spec import CleanSize, Dataset, Objective
from repro.study.spec import Study

REPLICATES = Path("results/replicates")
EARLIER = "seeds_before_clamp"
"""The seeds 10 to 12 of the unchanged profile, before the temperature's limit was rounded."""
MEASURES = ("accuracy", "asr", "lost", "asr_left")
PLACE = ["dataset", "pretrain_objective", "clean_size"]


@dataclass(frozen=True, slots=True)
class ReplicateSeed:
    """One seed."""

    seed: int
    values: dict[str, float]
    """By archive and processor; equal draws stand once."""


@dataclass(frozen=True, slots=True)
class Replicates:
    """A measure of one model on which replicates of a seed differ."""

    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize
    measure: str
    seeds: list[ReplicateSeed]
    sd: float
    """Standard deviation between replicates of one seed, pooled over seeds."""
    sd_seeds: float | None
    """Standard deviation between the seeds, each at the mean of its replicates; None of one."""


def replicates(
    studies: Sequence[tuple[str, Study, pd.DataFrame]], cap: float, rate: float | None, root: Path
) -> list[Replicates]:
    """One entry a model, cleaning size and measure that some seed has twice.

    `studies`: name, specification and evaluations of those of one profile. Compared are runs of the
    unchanged profile at the learning rates that all archives of a model have.
    """
    if not studies:
        return []

    sources = []
    for name, study, frame in studies:
        unchanged = [
            label
            for label, variant in study.variants.items()
            if not variant.overrides and variant.poisoned
        ]
        sources.append((name, frame[frame.variant.isin(unchanged)]))
    earlier = root / REPLICATES / f"{EARLIER}.jsonl.gz"
    if earlier.is_file():
        frame = archive_frame(earlier)
        sources.append((EARLIER, frame[frame.profile == studies[0][1].profile]))

    draws = pd.concat([_draws(name, frame) for name, frame in sources], ignore_index=True)
    return [
        found
        for place, of_place in draws.groupby(PLACE)
        for found in _compared(of_place, cap, rate)
    ]


def _draws(source: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The cleaning runs of an archive, under the name of the archive and its processor."""
    # Every cleaning run evaluates the start model first, so pre-training's rows are not needed.
    runs = frame[frame.stage == "clean"]
    return runs.assign(variant=source + " (" + runs.machine + ")")


def _compared(draws: pd.DataFrame, cap: float, rate: float | None) -> Iterator[Replicates]:
    """`draws` are those of one model and cleaning size."""
    rates = set.intersection(*(set(own.learning_rate) for _, own in draws.groupby("variant")))
    found = outcomes(draws[draws.learning_rate.isin(rates)], cap, rate)
    for measure in MEASURES:
        distinct = found.dropna(subset=[measure]).drop_duplicates(["seed", *MEASURES])
        by_seed = distinct.groupby("seed")[measure]
        repeated = by_seed.filter(lambda values: len(values) > 1)
        if repeated.empty:
            continue
        several = distinct.loc[repeated.index]
        groups = several.groupby("seed")[measure]
        first = found.iloc[0]
        yield Replicates(
            dataset=first.dataset,
            pretrain_objective=first.pretrain_objective,
            clean_size=first.clean_size,
            measure=measure,
            seeds=[
                ReplicateSeed(int(seed), dict(zip(own.variant, own[measure], strict=True)))
                for seed, own in several.groupby("seed")
            ],
            sd=sqrt(groups.var().mean()),
            sd_seeds=float(groups.mean().std()) if len(groups) > 1 else None,
        )
