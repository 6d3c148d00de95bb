"""Is there anything left for CleanCLIP's losses to do? Losses at the start of cleaning, and the
ASR that cleaning leaves.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from repro.report import draws
from repro.report.cells import CLEANCLIP

CELL = ["dataset", "clean_size", "pretrain_objective"]
FIELDS = ["study", "variant", *CELL, "seed", "loss_mmcl", "loss_ssl", "first_epoch", "asr_left"]
FEWEST_MODELS = 5
"""Of fewer models no correlation is given."""


def mechanism(frame: pd.DataFrame, rate: float | None, seeds: Iterable[int]) -> dict[str, Any]:
    """Models with one of the `seeds`, each once, cleaned at `rate`: of all studies but `draws`.

    A model that several studies clean stands with the cleaning that most of them share, which is
    the profile's. `loss_*` are means over the steps before the first evaluation, `asr_left` is that
    of the end, and correlations (Spearman's) are between the two. Exploratory: all of this was
    looked for after the data had been seen.
    """
    if rate is None:
        return {"learning_rate": None, "models": [], "correlations": []}
    runs = frame[
        (frame.stage == "clean")
        & (frame.loss == CLEANCLIP)
        & np.isclose(frame.learning_rate.astype(float), rate)
        & frame.poisoned.astype(bool)
        & ~frame.diverged.astype(bool)
        # Other targets are other tasks.
        & ~frame.study.isin(["", draws.STUDY])
        & frame.seed.isin(list(seeds))
        # Some defences have no SSL loss.
        & frame.fingerprint.isin(frame.fingerprint[frame.loss_ssl.notna()])
    ].groupby([*CELL[:2], "model"])
    models = pd.DataFrame([_model(of) for _, of in runs], columns=FIELDS)
    return {
        "learning_rate": rate,
        "models": models.to_dict("records"),
        "correlations": list(_correlations(models)),
    }


def _model(runs: pd.DataFrame) -> dict[str, Any]:
    """The beginning and the end of a model's cleaning."""
    # Of equally many the first in the archives, where the default comes before variants.
    shared = runs.groupby("fingerprint", sort=False).run.nunique().idxmax()
    cleaning = runs[runs.fingerprint == shared]
    rows = cleaning[cleaning.run == cleaning.run.iloc[0]].sort_values("step")
    first, last = rows[rows.step > 0].iloc[0], rows.iloc[-1]
    return {
        **last,
        "loss_mmcl": first.loss_mmcl,
        "loss_ssl": first.loss_ssl,
        "first_epoch": first.epoch,
        "asr_left": last.asr,
    }


def _correlations(models: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """By cell, of the models of both objectives (then the objective is None) and of each."""
    groups = pd.concat([models.assign(pretrain_objective=""), models]).groupby(CELL)
    for (dataset, size, objective), group in groups:
        different = group[["loss_ssl", "loss_mmcl", "asr_left"]].nunique().min() > 1
        if len(group) >= FEWEST_MODELS and different:
            yield {
                "dataset": dataset,
                "clean_size": size,
                "pretrain_objective": objective or None,
                "models": len(group),
                "loss_ssl": spearmanr(group.loss_ssl, group.asr_left).statistic,
                "loss_mmcl": spearmanr(group.loss_mmcl, group.asr_left).statistic,
            }
