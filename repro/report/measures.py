"""Measures of one model and all its CleanCLIP runs in one cell.

docs/rules.md defines the measures; shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from repro.report.cells import CLEANCLIP, OBJECTIVES
from repro.report.claims import Claims
from repro.report.points import start_models
from repro.spec import CleanSize, Dataset, Loss, Objective, Profile


class Value(NamedTuple):
    """A measure of one model, or of one seed."""

    value: float
    at_least: bool = False
    at_most: bool = False

    def __sub__(self, other: Value) -> Value:
        """The difference, which is a bound where one of the two is."""
        at_least = self.at_least or other.at_most
        return Value(self.value - other.value, at_least, self.at_most or other.at_least)


class Context(NamedTuple):
    """What measures need besides a model; but for the cap, fields as in specs/claims.yaml."""

    cap: float
    """Highest ASR of a cleaned model."""
    rate: float | None
    hull_cap: float
    kept_share: float

    @classmethod
    def of(cls, claims: Claims, profile: Profile) -> Context:
        """As the claims file has it for a profile."""
        rules, cap = claims.rules, profile.evaluate.asr_cap
        return cls(cap, rules.rate.get(profile.name), rules.hull_cap, claims.kept_share)


def best_first(points: pd.DataFrame) -> pd.DataFrame:
    """The evaluations by falling accuracy; ties go to the lower ASR, then the earlier."""
    order = {"accuracy": False, "asr": True, "epoch": True, "run": True, "index": True}
    return points.sort_values([*order], ascending=[*order.values()])


def best_under_cap(points: pd.DataFrame, cap: float) -> pd.Series | None:
    """The first of `best_first` with an ASR of at most `cap`."""
    allowed = best_first(points[points.asr <= cap])
    return None if allowed.empty else allowed.iloc[0]


@dataclass(frozen=True)
class CleanedModel:
    """A model and its finetuning runs of one kind in one cell; `start` is it before them."""

    start: pd.Series
    runs: pd.DataFrame
    context: Context

    @cached_property
    def points(self) -> pd.DataFrame:
        """Evaluations after the start, of all runs; `kept` is the accuracy as a share of its."""
        later = self.runs[self.runs.step > 0]
        return later.assign(kept=later.accuracy / self.start.accuracy)

    @cached_property
    def ends(self) -> pd.DataFrame:
        """Last evaluations of the runs that did not diverge, by rising learning rate; of no run
        where the rates are not known.
        """
        whole = ~self.points.diverged.astype(bool) & self.points.learning_rate.notna()
        last = self.points[whole].groupby("run", sort=False).tail(1)
        return last.sort_values("learning_rate")

    @cached_property
    def best(self) -> pd.Series | None:
        """The best evaluation at the threshold."""
        return best_under_cap(self.points, self.context.cap)


Pair = dict[Objective, dict[int, CleanedModel]]
"""Models of both objectives in a cell, by seed."""


class Evaluations:
    """Evaluations by arm (`<study>/<variant>`), dataset and objective, and the models of a cell."""

    def __init__(self, frame: pd.DataFrame, context: Context) -> None:
        """`frame` is one of repro/report/points.py."""
        self.frame, self.context = frame.assign(arm=frame.study + "/" + frame.variant), context
        self._rows = dict(list(self.frame.groupby(["arm", "dataset", "pretrain_objective"])))
        # Once for each cell: every measure and claim asks for the same models.
        self.cleaned = cache(self._cleaned)

    def rows(self, arm: str, dataset: Dataset, objective: Objective) -> pd.DataFrame:
        """Evaluations of the models of an arm."""
        return self._rows.get((arm, dataset, objective), self.frame[:0])

    def _cleaned(
        self,
        arm: str,
        dataset: Dataset,
        size: CleanSize,
        objective: Objective,
        loss: Loss = CLEANCLIP,
    ) -> dict[int, CleanedModel]:
        """The models of an arm with their finetuning runs in a cell, by seed."""
        rows = self.rows(arm, dataset, objective)
        of_cell = (rows.stage == "clean") & (rows.clean_size == size) & (rows.loss == loss)
        starts = start_models(rows[of_cell | (rows.stage == "pretrain")]).set_index("seed")
        models = {
            int(seed): CleanedModel(starts.loc[seed], runs, self.context)
            for seed, runs in rows[of_cell].groupby("seed")
            if seed in starts.index and starts.num_correct[seed]
        }
        return {seed: model for seed, model in models.items() if len(model.points)}

    def pair(self, mmcl: str, mmcl_ssl: str, dataset: Dataset, size: CleanSize) -> Pair:
        """The models of both objectives in a cell, from one arm each."""
        return {
            "mmcl": self.cleaned(mmcl, dataset, size, "mmcl"),
            "mmcl_ssl": self.cleaned(mmcl_ssl, dataset, size, "mmcl_ssl"),
        }


Quantity = Callable[[CleanedModel], Value | None]
"""What is measured of one model; None where it cannot be."""


def of_seeds(quantity: Quantity, models: Mapping[int, CleanedModel]) -> dict[int, Value]:
    """The values of the seeds that have one."""
    values = {seed: quantity(model) for seed, model in models.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def of_both(
    quantity: Quantity, pair: Pair
) -> dict[Literal["mmcl", "mmcl_ssl", "difference"], dict[int, Value]]:
    """The values of both models and their difference, of the seeds that have both."""
    mmcl, ssl = (of_seeds(quantity, pair[objective]) for objective in OBJECTIVES)
    seeds = [seed for seed in mmcl if seed in ssl]
    return {
        "mmcl": {seed: mmcl[seed] for seed in seeds},
        "mmcl_ssl": {seed: ssl[seed] for seed in seeds},
        "difference": {seed: ssl[seed] - mmcl[seed] for seed in seeds},
    }


def rate_doublings(model: CleanedModel) -> Value | None:
    """log2 of the learning rate whose run ends at the threshold, between the rates of the grid."""
    if model.ends.empty:
        return None
    x, y = np.log2(model.ends.learning_rate.to_numpy(float)), _logits(model.ends)
    cap = model.context.cap
    cleans = np.flatnonzero(model.ends.asr <= cap)
    if not len(cleans):
        return Value(x[-1], at_least=True)
    if cleans[0] == 0:
        return Value(x[0], at_most=True)
    (x0, x1), (y0, y1) = (of[cleans[0] - 1 : cleans[0] + 1] for of in (x, y))
    way = (y0 - math.log(cap / (1 - cap))) / (y0 - y1)
    return Value(x0 + min(1.0, way) * (x1 - x0))


def asr_left_logit(model: CleanedModel) -> Value | None:
    """Mean over the grid of the logit of the ASR at the ends of the runs."""
    return None if model.ends.empty else Value(_logits(model.ends).mean())


def asr_left_at_rate(model: CleanedModel, rate: float | None = None) -> Value | None:
    """ASR at the end of the run with `rate`, or else the rate that was fixed for all seeds."""
    rate = rate or model.context.rate
    if rate is None:
        return None
    at = model.ends[np.isclose(model.ends.learning_rate, rate)]
    return None if at.empty else Value(at.asr.iloc[0])


def lost_at_cap(model: CleanedModel) -> Value | None:
    """Share of the start accuracy that the best model at the threshold has lost.

    A model that no rate cleans counts with its loss at the end of the highest rate.
    """
    best = model.best
    if (best is None and model.ends.empty) or not model.start.accuracy:
        return None
    kept = model.ends.kept.iloc[-1] if best is None else best.kept
    return Value(1 - kept, at_least=best is None)


def frontier_area(model: CleanedModel) -> Value | None:
    """Mean over ASR thresholds from 0 to `hull_cap` of the share of accuracy lost, on the hull."""
    points = [(0.0, 0.0), (model.start.asr, model.start.accuracy)]
    points += zip(model.points.asr, model.points.accuracy, strict=True)
    return Value(1 - hull_mean(points, model.context.hull_cap) / model.start.accuracy)


def accuracy_at_cap(model: CleanedModel) -> Value | None:
    """Accuracy of the best model at the threshold, which one would deploy."""
    best = model.best
    return None if best is None else Value(best.accuracy)


LOSSES_OF_ACCURACY = np.linspace(0.0, 0.2, 201)
"""Shares of the start accuracy over which `asr_frontier` is averaged."""


def asr_frontier(model: CleanedModel) -> Value:
    """Mean over losses of accuracy from 0 to 20% of the start of the test ASR of the evaluation
    with the lowest ASR on the validation images among those that lose no more there.
    """
    states = pd.concat([model.start.to_frame().T, model.points])
    kept = states.validation_accuracy / model.start.validation_accuracy
    left = []
    for lost in LOSSES_OF_ACCURACY:
        allowed = states[kept >= 1 - lost]
        left.append(allowed.test_asr.iloc[int(np.argmin(allowed.validation_asr))])
    return Value(float(np.mean(left)))


def start_accuracy(model: CleanedModel) -> Value:
    """Accuracy of the model that is cleaned."""
    return Value(model.start.accuracy)


def start_asr(model: CleanedModel) -> Value:
    """ASR of the model that is cleaned."""
    return Value(model.start.asr)


def kept_asr(model: CleanedModel) -> Value | None:
    """Lowest ASR of the evaluations that keep enough of the start accuracy."""
    kept = model.points[model.points.accuracy >= model.context.kept_share * model.start.accuracy]
    return None if kept.empty else Value(kept.asr.min())


def late_drop(model: CleanedModel) -> Value | None:
    """Share of the accuracy lost from the best evaluation to the end of its run."""
    best, last = model.best, _last(model)
    return None if best is None or last is None else Value(1 - last.accuracy / best.accuracy)


def late_asr(model: CleanedModel) -> Value | None:
    """ASR at the end of the run with the best evaluation."""
    last = _last(model)
    return None if last is None else Value(last.asr)


def _last(model: CleanedModel) -> pd.Series | None:
    """The end of the run with the best evaluation; None where that is the best one itself."""
    if model.ends.empty or model.best is None:
        return None
    last = model.points[model.points.run == model.best.run].sort_values("step").iloc[-1]
    return None if last.step == model.best.step else last


def lowest_asr(model: CleanedModel) -> Value:
    """Lowest ASR of all evaluations after the start."""
    return Value(model.points.asr.min())


@dataclass(frozen=True)
class Measure:
    """What is measured of a model. A new one is an entry below; a rule in specs/claims.yaml makes
    it one of the verdicts.
    """

    name: str
    title: str
    unit: Literal["doublings", "logits", "fraction"]
    of: Quantity
    price: bool = False
    """Whether a verdict needs the whole control, not only that CleanCLIP removes the backdoor."""

    @property
    def words(self) -> str:
        """The title within a sentence."""
        first, rest = self.title[0], self.title[1:]
        return self.title if rest[0].isupper() else first.lower() + rest


MEASURES = (
    Measure("rate_doublings", "Learning rate that cleans", "doublings", rate_doublings),
    Measure("asr_left_logit", "ASR left over all rates", "logits", asr_left_logit),
    Measure("asr_left_at_rate", "ASR left at one rate", "fraction", asr_left_at_rate),
    Measure("lost_at_cap", "Share of accuracy lost", "fraction", lost_at_cap, price=True),
    Measure(
        "frontier_area", "Share lost along the frontier", "fraction", frontier_area, price=True
    ),
    Measure("accuracy_at_cap", "Accuracy when cleaned", "fraction", accuracy_at_cap, price=True),
    Measure("asr_frontier", "ASR left on the frontier", "fraction", asr_frontier),
    Measure("start_accuracy", "Accuracy before cleaning", "fraction", start_accuracy),
    Measure("start_asr", "ASR before cleaning", "fraction", start_asr),
    Measure("kept_asr", "Lowest ASR with 95% of the accuracy kept", "fraction", kept_asr),
    Measure("lowest_asr", "Lowest ASR of all evaluations", "fraction", lowest_asr),
    Measure(
        "late_drop",
        "Share lost from the best evaluation to the end of its run",
        "fraction",
        late_drop,
    ),
    Measure("late_asr", "ASR at the end of the run with the best evaluation", "fraction", late_asr),
)
"""All of them, those of the verdicts first, in the order of their weight."""
BY_NAME = {measure.name: measure for measure in MEASURES}


def judged(rules: Container[str]) -> list[Measure]:
    """The measures that have a rule."""
    return [measure for measure in MEASURES if measure.name in rules]


def hull_mean(points: Sequence[tuple[float, float]], cap: float) -> float:
    """Mean over x from 0 to `cap` of the concave hull of `points`, as a best value up to x."""
    # Upper hull by Andrew's monotone chain. A threshold also allows what lies below it, so that
    # after its peak the hull stays at the peak.
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (y - y0) < (y1 - y0) * (x - x0):
                break
            hull.pop()
        hull.append((x, y))
    grid = np.unique([0.0, cap, *(x for x, _ in hull if x < cap)])
    return float(np.trapezoid(np.interp(grid, *np.transpose(hull)), grid)) / cap


def _logits(ends: pd.DataFrame) -> Any:
    """Logits of the ASR, array (runs,), with half an image added to both counts."""
    missed = ends.attackable - ends.attacked
    return np.log(((ends.attacked + 0.5) / (missed + 0.5)).to_numpy(float))
