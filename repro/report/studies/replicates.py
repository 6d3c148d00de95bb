"""How much of a result is rounding: equal trainings of one seed whose sums were rounded otherwise.

The studies' archives hold the unchanged profile from two kinds of processor, and
`results/replicates` holds an archive of the seeds 10 to 12 from before a change of code that leaves
the mathematics as it is. Neither is part of a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from repro.report.studies.outcomes import CELL, outcomes

REPLICATES = Path("results/replicates")
EARLIER = "seeds_before_clamp"
"""The seeds 10 to 12 of the unchanged profile, before the temperature's limit was rounded."""
MEASURES = ["accuracy", "asr", "lost", "asr_left"]


def replicates(
    archives: Mapping[str, pd.DataFrame], cap: float, rate: float | None
) -> list[dict[str, Any]]:
    """One entry a model, cleaning size and measure that some seed has twice.

    `archives`: evaluations of the unchanged profile by archive. Compared are the learning rates
    that all archives of a model have. `seeds` have values by archive and processor, equal draws
    once; `sd` is between replicates of one seed, pooled over seeds, and `sd_seeds` between the
    seeds, each at the mean of its replicates.
    """
    if not archives:
        return []
    # Every cleaning run evaluates the start model first, so pre-training's rows are not needed.
    draws = pd.concat(
        [
            runs.assign(variant=name + " (" + runs.machine + ")")
            for name, frame in archives.items()
            for runs in [frame[frame.stage == "clean"]]
        ],
        ignore_index=True,
    )
    return [
        entry
        for _, of_place in draws.groupby(["dataset", "pretrain_objective", "clean_size"])
        for entry in _compared(of_place, cap, rate)
    ]


def _compared(draws: pd.DataFrame, cap: float, rate: float | None) -> Iterator[dict[str, Any]]:
    """`draws` are those of one model and cleaning size."""
    rates = set.intersection(*(set(own.learning_rate) for _, own in draws.groupby("variant")))
    table = outcomes(draws[draws.learning_rate.isin(rates)], cap, rate)
    for measure in MEASURES:
        distinct = table.dropna(subset=[measure]).drop_duplicates(["seed", *MEASURES])
        several = distinct[distinct.duplicated("seed", keep=False)]
        if several.empty:
            continue
        groups = several.groupby("seed")
        yield {
            **table[CELL[1:]].iloc[0],
            "measure": measure,
            "seeds": [
                {"seed": seed, "values": dict(zip(own.variant, own[measure], strict=True))}
                for seed, own in groups
            ],
            "sd": sqrt(groups[measure].var().mean()),
            "sd_seeds": groups[measure].mean().std() if len(groups) > 1 else None,
        }
