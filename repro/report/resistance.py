"""How far models resist CleanCLIP: what is left at equal finetuning, and what cleaning costs at
other ASR thresholds. Ours, not the paper's.

All shares are fractions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from repro.report.cells import OBJECTIVES, TABLE1_ROWS
from repro.report.measures import CleanedModel, Evaluations
from repro.report.seeds import difference
from repro.spec import CleanSize, Dataset, Objective

CAPS = (0.025, 0.05, 0.1)
"""ASR thresholds at which the best models are given."""


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
    thresholds: list[AtThreshold]
    """At all CAPS."""


@dataclass(frozen=True)
class Resistance:
    """The resistance in every setting that has evaluations of both models."""

    study: str | None
    """Whose runs these are; None for those of the report itself."""
    rate: float | None
    """Of the measure `asr_left_at_rate`; None where the rules have none."""
    cells: list[ResistanceCell]


def resistance(evaluations: Evaluations, arm: str) -> Resistance:
    """The resistance of the models of `arm`: one of a study, or "/" for the report's own runs."""
    cells = []
    for dataset, size in TABLE1_ROWS:
        ours = _pair(evaluations, arm, dataset, size)
        if equal := _equal(ours):
            cells.append(ResistanceCell(dataset, size, equal, _thresholds(_best_of(ours))))
    return Resistance(arm.split("/")[0] or None, evaluations.context.rate, cells)


Pair = Mapping[Objective, Mapping[int, CleanedModel]]
"""The models of both objectives in a setting, by seed."""


def _pair(evaluations: Evaluations, arm: str, dataset: Dataset, size: CleanSize) -> Pair:
    terms = difference([arm], [arm], dataset, size).values()
    return {of.models.objective: evaluations.models(of.models) for of in terms}


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
    """What cleaning costs both models at each of CAPS."""
    rows = []
    for place, cap in enumerate(CAPS):
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
