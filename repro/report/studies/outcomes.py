"""What came of each model of a study."""

from __future__ import annotations

import math

import pandas as pd

from repro.report.measures import (
    CleanedModel,
    Context,
    accuracy_at_cap,
    asr_left_at_rate,
    lost_at_cap,
)
from repro.report.numbers.cells import CLEANCLIP

CELL = ["variant", "dataset", "pretrain_objective", "clean_size"]
"""Columns that name a model over its seeds, and how many pairs cleaned it."""
MODEL = [*CELL[:3], "seed"]
MEASURES = {
    "accuracy": "accuracy before cleaning",
    "asr": "ASR before cleaning",
    "cleaned_accuracy": "best accuracy at the ASR threshold",
    "lost": "share of the accuracy lost at the threshold",
    "asr_left": "ASR left",
}
"""Measures of `outcomes`, in words."""
AFTER = (accuracy_at_cap, lost_at_cap, asr_left_at_rate)
"""The last three of them."""


def outcomes(frame: pd.DataFrame, cap: float, rate: float | None) -> pd.DataFrame:
    """What came of every model of a study: one row a CELL and seed, fractions.

    `frame` is one of repro/report/points.py. `accuracy` and `asr` are before cleaning; of CleanCLIP
    `tried`, `cleaned` (some evaluation has an ASR of at most `cap`), `cleaned_accuracy` (the best
    of these), `lost` (the share of the accuracy that it costs; where nothing reached `cap`, the
    loss at the end of the highest learning rate, a lower bound) and `asr_left` (at the end of the
    run at learning rate `rate`). NaN where a value is not there. A model that is only cleaned here
    is measured before it by the first evaluation of a run that starts from it as it is.
    """
    starts = frame[(frame.stage == "pretrain") & frame.handed_on].set_index(MODEL)
    first = frame[(frame.stage == "clean") & frame.untouched].groupby("model").first()
    unknown = pd.Series({"accuracy": math.nan, "asr": math.nan})
    context = Context(rate, hull_cap=cap, kept_share=1.0)
    rows = []
    cleaning = frame[(frame.stage == "clean") & (frame.loss == CLEANCLIP)]
    for (*model, size, seed), runs in cleaning.groupby([*CELL, "seed"], sort=False):
        start = starts.loc[(*model, seed)] if (*model, seed) in starts.index else unknown
        if start is unknown and runs.model.iloc[0] in first.index:
            start = first.loc[runs.model.iloc[0]]
        cleaned = CleanedModel(start, runs, cap)
        values = (measure(cleaned, context) for measure in AFTER)
        after = [None if value is None else value.value for value in values]
        outcome = [True, cleaned.best is not None, start.accuracy, start.asr, *after]
        rows.append([*model, size, seed, *outcome])
    of_cleaning = {(*row[:3], row[4]) for row in rows}
    for (*model, seed), start in starts.iterrows():
        if (*model, seed) not in of_cleaning:
            outcome = [False, False, start.accuracy, start.asr, None, None, None]
            rows.append([*model, None, seed, *outcome])
    return pd.DataFrame(rows, columns=[*CELL, "seed", "tried", "cleaned", *MEASURES])
