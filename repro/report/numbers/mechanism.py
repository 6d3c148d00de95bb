"""Is there anything left for CleanCLIP's losses to do? Losses at the start of cleaning, and the
ASR that cleaning leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from repro.report.numbers.cells import CLEANCLIP, OBJECTIVES, TABLE1_ROWS

FEWEST_MODELS = 5
"""Of fewer models no correlation is given."""


def mechanism(frame: pd.DataFrame, rate: float | None, seeds: Iterable[int]) -> dict[str, Any]:
    """Models of all studies that have one of the `seeds`, each once, cleaned at `rate`.

    A model that several studies clean stands with the cleaning that most of them share, which is
    the profile's. `loss_*` are means over the steps before the first evaluation, `asr_left` is that
    of the end, and correlations (Spearman's) are between the two. Exploratory: all of this was
    looked for after the data had been seen.
    """
    models: list[dict[str, Any]] = []
    if rate is not None:
        runs = frame[
            (frame.stage == "clean")
            & (frame.loss == CLEANCLIP)
            & np.isclose(frame.learning_rate.astype(float), rate)
            & frame.poisoned.astype(bool)
            & ~frame.diverged.astype(bool)
            & (frame.study != "")
            & frame.seed.isin(list(seeds))
        ]
        models = [
            model
            for _, of_model in runs.groupby(["dataset", "clean_size", "model"])
            for model in _model(of_model)
        ]
    return {"learning_rate": rate, "models": models, "correlations": _correlations(models)}


def _model(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The beginning and the end of a model's cleaning; nothing where its losses are not known."""
    shared = runs.groupby("fingerprint").run.nunique().sort_values(kind="stable").index[-1]
    cleaning = runs[runs.fingerprint == shared]
    rows = cleaning[cleaning.run == cleaning.run.iloc[0]].sort_values("step")
    first, last = rows[rows.step > 0].iloc[0], rows.iloc[-1]
    if np.isnan([first.loss_mmcl, first.loss_ssl]).any():
        return []
    names = ("study", "variant", "dataset", "clean_size", "pretrain_objective", "seed")
    losses = {"loss_mmcl": first.loss_mmcl, "loss_ssl": first.loss_ssl}
    return [{**last[list(names)], **losses, "first_epoch": first.epoch, "asr_left": last.asr}]


def _correlations(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By cell, of the models of both objectives (then the objective is None) and of each."""
    table = pd.DataFrame(models, columns=None if models else ["dataset", "clean_size"])
    correlations = []
    for dataset, size in TABLE1_ROWS:
        of_cell = table[(table.dataset == dataset) & (table.clean_size == size)]
        for objective in (None, *OBJECTIVES):
            group = of_cell
            if objective and len(of_cell):
                group = of_cell[of_cell.pretrain_objective == objective]
            if len(group) >= FEWEST_MODELS:
                names = {"dataset": dataset, "clean_size": size, "pretrain_objective": objective}
                values = {
                    loss: spearmanr(group[loss], group.asr_left).statistic
                    for loss in ("loss_ssl", "loss_mmcl")
                }
                correlations.append({**names, "models": len(group), **values})
    return correlations
