"""How far models resist CleanCLIP: what is left at equal finetuning, what cleaning costs at any
ASR threshold, and whether its losses have anything left to do. Ours, not the paper's.

All shares are fractions.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from repro.report import draws
from repro.report.cells import CLEANCLIP, OBJECTIVES, TABLE1_ROWS
from repro.report.contrasts import difference
from repro.report.measures import CleanedModel, Evaluations
from repro.report.points import AUTHORS
from repro.spec import CleanSize, Dataset, Objective

APART = ("", draws.STUDY, "par", "whose_view", "confirm", "reversal", "scenes", "vit")
"""Studies whose models the correlations leave out: other targets and captions are other tasks, a
transformer is another model, and other second views make another SSL term; `par`, `confirm` and
`reversal` came after the correlations were told. The report's own runs are of the study "".
"""
CAPS = tuple(step / 200 for step in range(41))
"""ASR thresholds at which the trade-off is given: 0 to 20% by half a point."""


@dataclass(frozen=True)
class End:
    """The end of a run."""

    seed: int
    asr: float
    kept: float
    """Share of the accuracy before cleaning."""


@dataclass(frozen=True)
class AtRate:
    """Both models after as many steps at one learning rate, on the seeds that have both."""

    learning_rate: float
    step: int
    mmcl: list[End]
    mmcl_ssl: list[End]
    more: int
    """Seeds on which the MMCL + SSL model is left with more ASR."""


@dataclass(frozen=True)
class TradeOff:
    """Share of the start accuracy that is kept at CAPS, means over seeds; 0 where no evaluation has
    so low an ASR.
    """

    source: str
    """`ledger` for ours, or `authors`."""
    seeds: int
    mmcl: list[float]
    mmcl_ssl: list[float]


@dataclass(frozen=True)
class AtThreshold:
    """The best models of both objectives at one ASR threshold, means over seeds."""

    cap: float
    cleaned: dict[Objective, int]
    """Seeds on which some evaluation reaches the threshold."""
    seeds: int
    """Those on which both models do, of which all that follows is."""
    accuracy: dict[Objective, float | None]
    lost: dict[Objective, float | None]
    """Share of the accuracy before cleaning."""


@dataclass(frozen=True)
class ResistanceCell:
    """The resistance of both models in one setting."""

    dataset: Dataset
    clean_size: CleanSize
    equal: list[AtRate]
    """By rising learning rate."""
    trade_offs: list[TradeOff]
    thresholds: list[AtThreshold]
    """At all CAPS but 0."""


@dataclass(frozen=True)
class Resistance:
    """The resistance in every setting that has evaluations of both models."""

    study: str | None
    """Whose runs these are; None for those of the report itself."""
    rate: float | None
    """Of the measure `asr_left_at_rate`; None where the rules have none."""
    caps: tuple[float, ...]
    cells: list[ResistanceCell]


def resistance(evaluations: Evaluations, arm: str) -> Resistance:
    """The resistance of the models of `arm`: one of a study, or "/" for the report's own runs."""
    cells = []
    for dataset, size in TABLE1_ROWS:
        ours = _pair(evaluations, arm, dataset, size)
        best = _best_of(ours)
        best_of_authors = _best_of(_pair(evaluations, f"{AUTHORS}/", dataset, size))
        equal = _equal(ours)
        trade_offs = [*_trade_off("ledger", best), *_trade_off("authors", best_of_authors)]
        if equal or trade_offs:
            thresholds = _thresholds(best) if equal else []
            cells.append(ResistanceCell(dataset, size, equal, trade_offs, thresholds))
    return Resistance(arm.split("/")[0] or None, evaluations.context.rate, CAPS, cells)


Pair = Mapping[Objective, Mapping[int, CleanedModel]]
"""The models of both objectives in a setting, by seed."""


def _pair(evaluations: Evaluations, arm: str, dataset: Dataset, size: CleanSize) -> Pair:
    terms = difference((arm,), (arm,), dataset, size)
    return {models.objective: evaluations.models(models) for models in terms}


class BestAt(NamedTuple):
    """Accuracy of a model before cleaning, and of the best evaluation at each of CAPS."""

    start: float
    accuracy: list[float]
    """NaN where no evaluation has so low an ASR."""

    @property
    def kept(self) -> list[float]:
        """As shares of the start's; 0 where there is none."""
        return [0.0 if math.isnan(of) else of / self.start for of in self.accuracy]


def best_at(model: CleanedModel) -> BestAt:
    """The best evaluations of a model at all CAPS."""
    asr = model.points.asr.to_numpy(float)
    accuracy = model.points.accuracy.to_numpy(float)
    best = [float(max(accuracy[asr <= cap], default=math.nan)) for cap in CAPS]
    return BestAt(model.start.accuracy, best)


Best = Mapping[Objective, Mapping[int, BestAt]]
"""Of both objectives in a setting, by seed."""


def _best_of(pair: Pair) -> Best:
    return {
        objective: {seed: best_at(model) for seed, model in models.items()}
        for objective, models in pair.items()
    }


def _thresholds(best: Best) -> list[AtThreshold]:
    """What cleaning costs both models at each of CAPS but 0."""
    rows = []
    for place, cap in list(enumerate(CAPS))[1:]:
        reached: dict[Objective, set[int]] = {}
        for objective, models in best.items():
            reached[objective] = {
                seed for seed, of in models.items() if not math.isnan(of.accuracy[place])
            }
        both = set.intersection(*reached.values())

        accuracy: dict[Objective, float | None] = dict.fromkeys(best)
        lost: dict[Objective, float | None] = dict.fromkeys(best)
        if both:
            for objective, models in best.items():
                accuracy[objective] = fmean(models[seed].accuracy[place] for seed in both)
                lost[objective] = fmean(1 - models[seed].kept[place] for seed in both)
        cleaned = {objective: len(seeds) for objective, seeds in reached.items()}
        rows.append(AtThreshold(cap, cleaned, len(both), accuracy, lost))
    return rows


def _equal(pair: Pair) -> list[AtRate]:
    """What is left of both models, by rising learning rate, on the seeds that have both."""
    tables = [model.ends for models in pair.values() for model in models.values()]
    if not tables:
        return []
    ends = pd.concat(tables).sort_values("seed", kind="stable")
    keys = ["learning_rate", "step"]
    models = ends.groupby([*keys, "seed"]).pretrain_objective.transform("nunique")
    rows = []
    for (rate, step), at in ends[models == len(OBJECTIVES)].groupby(keys):
        mmcl = _ends(at[at.pretrain_objective == "mmcl"])
        mmcl_ssl = _ends(at[at.pretrain_objective == "mmcl_ssl"])
        more = sum(ssl.asr > of.asr for of, ssl in zip(mmcl, mmcl_ssl, strict=True))
        rows.append(AtRate(rate, step, mmcl, mmcl_ssl, more))
    return rows


def _ends(rows: pd.DataFrame) -> list[End]:
    return [End(row.seed, row.asr, row.kept) for row in rows.itertuples()]


def _trade_off(source: str, best: Best) -> Iterator[TradeOff]:
    """One entry, or none where no seed has both models."""
    seeds = best["mmcl"].keys() & best["mmcl_ssl"].keys()
    if seeds:
        mmcl, mmcl_ssl = (
            [fmean(kept) for kept in zip(*(models[seed].kept for seed in seeds), strict=True)]
            for models in (best["mmcl"], best["mmcl_ssl"])
        )
        yield TradeOff(source, len(seeds), mmcl, mmcl_ssl)


CELL = ["dataset", "clean_size", "pretrain_objective"]
FEWEST_MODELS = 5
"""Of fewer models no correlation is given."""


@dataclass(frozen=True)
class MechanismModel:
    """The beginning and the end of a model's cleaning."""

    study: str
    variant: str
    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    seed: int
    loss_mmcl: float
    """Mean over the steps before the first evaluation, as the next one."""
    loss_ssl: float
    asr_left: float
    """At the end."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlations of a loss at the start of cleaning with the ASR that is left."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective | None
    """None for the models of all."""
    models: int
    loss_ssl: float
    loss_mmcl: float


@dataclass(frozen=True)
class Mechanism:
    """Is there anything left for CleanCLIP's losses to do? Exploratory: all of this was looked for
    after the data had been seen.
    """

    learning_rate: float | None
    models: list[MechanismModel]
    correlations: list[Correlation]


def mechanism(frame: pd.DataFrame, rate: float | None, seeds: Iterable[int]) -> Mechanism:
    """Models with one of the `seeds`, each once, cleaned at `rate`: of all studies but APART.

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
        & ~frame.study.isin(APART)
        & frame.seed.isin(list(seeds))
        # Some defences have no SSL loss.
        & frame.fingerprint.isin(frame.fingerprint[frame.loss_ssl.notna()])
    ].groupby([*CELL[:2], "model"])
    models = [_model(of) for _, of in runs]
    return Mechanism(rate, models, list(_correlations(models)))


def _model(runs: pd.DataFrame) -> MechanismModel:
    # Of equally many the first in the archives, where the default comes before variants.
    shared = runs.groupby("fingerprint", sort=False).run.nunique().idxmax()
    cleaning = runs[runs.fingerprint == shared]
    rows = cleaning[cleaning.run == cleaning.run.iloc[0]].sort_values("step")
    first, last = rows[rows.step > 0].iloc[0], rows.iloc[-1]
    return MechanismModel(
        study=last.study,
        variant=last.variant,
        dataset=last.dataset,
        clean_size=last.clean_size,
        pretrain_objective=last.pretrain_objective,
        seed=last.seed,
        loss_mmcl=first.loss_mmcl,
        loss_ssl=first.loss_ssl,
        asr_left=last.asr,
    )


def _correlations(found: list[MechanismModel]) -> Iterator[Correlation]:
    """By setting, of the models of all objectives and of each."""
    if not found:
        return
    models = pd.DataFrame(found)
    groups = pd.concat([models.assign(pretrain_objective=""), models]).groupby(CELL)
    for (dataset, size, objective), group in groups:
        different = group[["loss_ssl", "loss_mmcl", "asr_left"]].nunique().min() > 1
        if len(group) >= FEWEST_MODELS and different:
            yield Correlation(
                dataset,
                size,
                objective or None,
                models=len(group),
                loss_ssl=spearmanr(group.loss_ssl, group.asr_left).statistic,
                loss_mmcl=spearmanr(group.loss_mmcl, group.asr_left).statistic,
            )
