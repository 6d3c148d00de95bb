"""Is there anything left for CleanCLIP's losses to do? Losses at the start of cleaning, and the
ASR that cleaning leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from repro.report.numbers.cells import CLEANCLIP, OBJECTIVES, TABLE1_ROWS
from repro.spec import CleanSize, Dataset, Objective

FEWEST_MODELS = 5
"""Of fewer models no correlation is given."""


@dataclass(frozen=True, slots=True)
class MechanismModel:
    """A poisoned model at the beginning and the end of its cleaning as in the profile."""

    study: str
    variant: str
    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    seed: int
    loss_mmcl: float
    """Mean over the steps before the first evaluation of the run."""
    loss_ssl: float
    first_epoch: float
    """Epochs up to that evaluation."""
    asr_left: float
    """At the end of the run."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlations of a loss at the start of cleaning with the ASR left."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective | None
    """None for models of both objectives."""
    models: int
    loss_ssl: float
    loss_mmcl: float


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Exploratory: it was looked for after the data had been seen."""

    learning_rate: float | None
    """Of all cleaning runs here; None where the rules name none for the profile."""
    models: list[MechanismModel]
    correlations: list[Correlation]


def mechanism(frame: pd.DataFrame, rate: float | None, seeds: Iterable[int]) -> Mechanism:
    """Models of all studies that have one of the `seeds`, each once, cleaned at `rate`.

    A model that several studies clean stands with the cleaning that most of them share, which is
    the profile's.
    """
    if rate is None:
        return Mechanism(None, [], [])
    runs = frame[
        (frame.stage == "clean")
        & (frame.loss == CLEANCLIP)
        & np.isclose(frame.learning_rate.astype(float), rate)
        & frame.poisoned.astype(bool)
        & ~frame.diverged.astype(bool)
        & (frame.study != "")
        & frame.seed.isin(list(seeds))
    ]
    models: list[MechanismModel] = []
    for _, of_model in runs.groupby(["dataset", "clean_size", "model"]):
        shared = of_model.groupby("fingerprint").run.nunique().sort_values(kind="stable").index[-1]
        cleaning = of_model[of_model.fingerprint == shared]
        rows = cleaning[cleaning.run == cleaning.run.iloc[0]].sort_values("step")
        first, last = rows[rows.step > 0].iloc[0], rows.iloc[-1]
        if not np.isnan([first.loss_mmcl, first.loss_ssl]).any():
            models.append(
                MechanismModel(
                    study=last.study,
                    variant=last.variant,
                    dataset=last.dataset,
                    clean_size=last.clean_size,
                    pretrain_objective=last.pretrain_objective,
                    seed=int(last.seed),
                    loss_mmcl=float(first.loss_mmcl),
                    loss_ssl=float(first.loss_ssl),
                    first_epoch=float(first.epoch),
                    asr_left=float(last.asr),
                )
            )
    return Mechanism(rate, models, _correlations(models))


def _correlations(models: Sequence[MechanismModel]) -> list[Correlation]:
    found = []
    for dataset, size in TABLE1_ROWS:
        for objective in (None, *OBJECTIVES):
            of = [
                model
                for model in models
                if (model.dataset, model.clean_size) == (dataset, size)
                and objective in (None, model.pretrain_objective)
            ]
            if len(of) >= FEWEST_MODELS:
                asr = [model.asr_left for model in of]
                ssl = float(spearmanr([model.loss_ssl for model in of], asr).statistic)
                mmcl = float(spearmanr([model.loss_mmcl for model in of], asr).statistic)
                found.append(Correlation(dataset, size, objective, len(of), ssl, mmcl))
    return found
