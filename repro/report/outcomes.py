"""What came of each model of a study, and how much of it is rounding: equal trainings of one seed
whose sums were rounded otherwise.

The studies' archives hold the unchanged profile from two kinds of processor, and
`results/replicates` holds an archive of the seeds 10 to 12 from before a change of code that leaves
the mathematics as it is. Neither is part of a verdict.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.report.cells import CLEANCLIP
from repro.report.measures import BY_NAME, CleanedModel, Context

CELL = ["variant", "dataset", "pretrain_objective", "clean_size"]
"""Columns that name a model over its seeds, and how many pairs cleaned it."""
MODEL = [*CELL[:3], "seed"]
COLUMNS = {
    "accuracy": "start_accuracy",
    "asr": "start_asr",
    "cleaned_accuracy": "accuracy_at_cap",
    "lost": "lost_at_cap",
    "asr_left": "asr_left_at_rate",
}
"""The measures of `outcomes` by column."""
REPLICATES = Path("results/replicates")
EARLIER = "seeds_before_clamp"
"""The seeds 10 to 12 of the unchanged profile, before the temperature's limit was rounded."""
REPEATED = ["accuracy", "asr", "lost", "asr_left"]
"""Measures of `replicates`."""
AFTER = [BY_NAME[name].of for name in [*COLUMNS.values()][2:]]
"""Those after cleaning."""


def outcomes(frame: pd.DataFrame, cap: float, rate: float | None) -> pd.DataFrame:
    """What came of every model of a study: one row a CELL and seed, fractions.

    `frame` is one of repro/report/points.py. `accuracy` and `asr` are before cleaning; of CleanCLIP
    `tried`, `cleaned` (some evaluation has an ASR of at most `cap`), `cleaned_accuracy` (the best
    of these), `lost` (the share of the accuracy that it costs; where nothing reached `cap`, the
    loss at the end of the highest learning rate, a lower bound) and `asr_left` (at the end of the
    run at learning rate `rate`). NaN where a value is not there. A model that is only cleaned here
    is measured before it by the first evaluation of a run that starts from it as it is.
    """
    left = dict(frame[(frame.stage == "pretrain") & frame.handed_on].set_index(MODEL).iterrows())
    cleaning = frame[frame.stage == "clean"]
    met = dict(cleaning[cleaning.untouched].groupby("model").first().iterrows())
    unknown = pd.Series({"accuracy": math.nan, "asr": math.nan})
    context = Context(cap, rate, hull_cap=cap, kept_share=1.0)
    rows = []
    cleanclip = cleaning[cleaning.loss == CLEANCLIP].groupby([*CELL, "seed"], sort=False)
    for (*model, size, seed), runs in cleanclip:
        start = left.get((*model, seed), met.get(runs.model.iloc[0], unknown))
        cleaned = CleanedModel(start, runs, context)
        values = (measure(cleaned) for measure in AFTER)
        after = [value and value.value for value in values]
        reached = cleaned.best is not None
        rows.append([*model, size, seed, True, reached, start.accuracy, start.asr, *after])
    cleaned_models = {(*row[:3], row[4]) for row in rows}
    for (*model, seed), start in left.items():
        if (*model, seed) not in cleaned_models:
            rows.append([*model, None, seed, False, False, start.accuracy, start.asr, *[None] * 3])
    return pd.DataFrame(rows, columns=[*CELL, "seed", "tried", "cleaned", *COLUMNS])


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
        runs.assign(variant=name + " (" + runs.machine + ")") for name, runs in archives.items()
    )
    return [
        entry
        for _, of_place in draws[draws.stage == "clean"].groupby(
            ["dataset", "pretrain_objective", "clean_size"]
        )
        for entry in _compared(of_place, cap, rate)
    ]


def _compared(draws: pd.DataFrame, cap: float, rate: float | None) -> Iterator[dict[str, Any]]:
    """`draws` are those of one model and cleaning size."""
    rates = set.intersection(*(set(own.learning_rate) for _, own in draws.groupby("variant")))
    table = outcomes(draws[draws.learning_rate.isin(rates)], cap, rate)
    for measure in REPEATED:
        distinct = table.dropna(subset=[measure]).drop_duplicates(["seed", *REPEATED])
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
            "sd": math.sqrt(groups[measure].var().mean()),
            "sd_seeds": groups[measure].mean().std() if len(groups) > 1 else None,
        }
