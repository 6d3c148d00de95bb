"""Measures of one model and all its CleanCLIP runs in one cell.

docs/rules.md defines the measures; shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from repro.report.judging.claims import Claims
from repro.report.numbers.cells import CLEANCLIP
from repro.report.points import start_models
from repro.spec import CleanSize, Dataset, Loss, Objective


class Value(NamedTuple):
    """A measure of one model."""

    value: float
    at_least: bool = False
    at_most: bool = False


def best_under_cap(points: pd.DataFrame, cap: float) -> pd.Series | None:
    """The most accurate evaluation with an ASR of at most `cap`; ties go to the lower ASR, then the
    earlier.
    """
    allowed = points[points.asr <= cap]
    if allowed.empty:
        return None
    allowed = allowed[allowed.accuracy == allowed.accuracy.max()]
    allowed = allowed[allowed.asr == allowed.asr.min()]
    return allowed.sort_values(["epoch", "run", "index"]).iloc[0]


@dataclass(frozen=True)
class CleanedModel:
    """A model and its finetuning runs of one kind in one cell; `start` is it before them."""

    start: pd.Series
    runs: pd.DataFrame
    threshold: float
    """Highest ASR of a cleaned model."""

    @cached_property
    def points(self) -> pd.DataFrame:
        """Evaluations after the start, of all runs."""
        return self.runs[self.runs.step > 0]

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
        return best_under_cap(self.points, self.threshold)


Pair = dict[Objective, dict[int, CleanedModel]]
"""Models of both objectives in a cell, by seed."""


class Evaluations:
    """Evaluations by arm (`<study>/<variant>`), dataset and objective, and the models of a cell."""

    def __init__(self, frame: pd.DataFrame, threshold: float) -> None:
        """`frame` is one of repro/report/points.py; `threshold`: highest ASR of a cleaned model."""
        arm = frame.study + "/" + frame.variant
        groups = frame.groupby([arm, frame.dataset, frame.pretrain_objective])
        self.threshold = threshold
        self.rows = {(str(a), str(d), str(o)): rows for (a, d, o), rows in groups}
        self.arms = {arm for arm, _, _ in self.rows}
        self._cleaned: dict[tuple[str, ...], dict[int, CleanedModel]] = {}

    def seeds(self, arm: str) -> list[int]:
        """Seeds that an arm has."""
        of_arm = (rows.seed for (name, _, _), rows in self.rows.items() if name == arm)
        return sorted({int(seed) for seeds in of_arm for seed in seeds.unique()})

    def cleaned(
        self,
        arm: str,
        dataset: Dataset,
        size: CleanSize,
        objective: Objective,
        loss: Loss = CLEANCLIP,
    ) -> dict[int, CleanedModel]:
        """The models of an arm with their finetuning runs in a cell, by seed."""
        key = (arm, dataset, size, objective, loss)
        rows = self.rows.get((arm, dataset, objective))
        if rows is not None and key not in self._cleaned:
            cleaning = rows[
                (rows.stage == "clean") & (rows.clean_size == size) & (rows.loss == loss)
            ]
            starts = start_models(pd.concat([rows[rows.stage == "pretrain"], cleaning]))
            models = {
                int(start.seed): CleanedModel(start, runs, self.threshold)
                for _, start in starts.sort_values("seed").iterrows()
                if start.num_correct and len(runs := cleaning[cleaning.seed == start.seed])
            }
            self._cleaned[key] = {s: model for s, model in models.items() if len(model.points)}
        return self._cleaned.get(key, {})

    def pair(self, mmcl: str, mmcl_ssl: str, dataset: Dataset, size: CleanSize) -> Pair:
        """The models of both objectives in a cell, from one arm each."""
        return {
            "mmcl": self.cleaned(mmcl, dataset, size, "mmcl"),
            "mmcl_ssl": self.cleaned(mmcl_ssl, dataset, size, "mmcl_ssl"),
        }


class Context(NamedTuple):
    """What a measure needs besides a model; fields as in specs/claims.yaml."""

    rate: float | None
    hull_cap: float
    kept_share: float

    @classmethod
    def of(cls, claims: Claims, profile: str) -> Context:
        """As the claims file has it for a profile."""
        rules = claims.rules
        return cls(rules.rate.get(profile), rules.hull_cap, claims.kept_share)


def rate_doublings(model: CleanedModel, context: Context) -> Value | None:
    """log2 of the learning rate whose run ends at the threshold, between the rates of the grid."""
    if model.ends.empty:
        return None
    x = np.log2(model.ends.learning_rate.to_numpy(float))
    y = _logits(model.ends)
    threshold = math.log(model.threshold / (1 - model.threshold))
    for i, asr in enumerate(model.ends.asr):
        if asr > model.threshold:
            continue
        if i == 0:
            return Value(float(x[0]), at_most=True)
        way = min(1.0, (y[i - 1] - threshold) / (y[i - 1] - y[i]))
        return Value(float(x[i - 1] + way * (x[i] - x[i - 1])))
    return Value(float(x[-1]), at_least=True)


def asr_left_logit(model: CleanedModel, context: Context) -> Value | None:
    """Mean over the grid of the logit of the ASR at the ends of the runs."""
    return None if model.ends.empty else Value(float(_logits(model.ends).mean()))


def asr_left_at_rate(model: CleanedModel, context: Context) -> Value | None:
    """ASR at the end of the run with the learning rate that was fixed for all seeds."""
    if context.rate is None:
        return None
    at = model.ends[np.isclose(model.ends.learning_rate, context.rate)]
    return None if at.empty else Value(float(at.asr.iloc[0]))


def lost_at_cap(model: CleanedModel, context: Context) -> Value | None:
    """Share of the start accuracy that the best model at the threshold has lost.

    A model that no rate cleans counts with its loss at the end of the highest rate.
    """
    best = model.best
    if (best is None and model.ends.empty) or not model.start.accuracy:
        return None
    left = model.ends.accuracy.iloc[-1] if best is None else best.accuracy
    return Value(1 - float(left) / model.start.accuracy, at_least=best is None)


def frontier_area(model: CleanedModel, context: Context) -> Value | None:
    """Mean over ASR thresholds from 0 to `hull_cap` of the share of accuracy lost, on the hull."""
    points = [(0.0, 0.0), (model.start.asr, model.start.accuracy)]
    points += zip(model.points.asr, model.points.accuracy, strict=True)
    return Value(1 - hull_mean(points, context.hull_cap) / model.start.accuracy)


def accuracy_at_cap(model: CleanedModel, context: Context) -> Value | None:
    """Accuracy of the best model at the threshold, which one would deploy."""
    best = model.best
    return None if best is None else Value(float(best.accuracy))


@dataclass(frozen=True, slots=True)
class Measure:
    """A way to compare two models; a new one is an entry here and a rule in specs/claims.yaml."""

    name: str
    title: str
    unit: Literal["doublings", "logits", "fraction"]
    of: Callable[[CleanedModel, Context], Value | None]
    price: bool
    """Whether it needs the whole control, not only that CleanCLIP removes the backdoor."""

    def of_seeds(self, models: Mapping[int, CleanedModel], context: Context) -> dict[int, Value]:
        """The values of the seeds that have one."""
        values = {seed: self.of(model, context) for seed, model in models.items()}
        return {seed: value for seed, value in values.items() if value is not None}


MEASURES = (
    Measure("rate_doublings", "Learning rate that cleans", "doublings", rate_doublings, False),
    Measure("asr_left_logit", "ASR left over all rates", "logits", asr_left_logit, False),
    Measure("asr_left_at_rate", "ASR left at one rate", "fraction", asr_left_at_rate, False),
    Measure("lost_at_cap", "Accuracy lost when cleaned", "fraction", lost_at_cap, True),
    Measure("frontier_area", "Accuracy lost along the frontier", "fraction", frontier_area, True),
    Measure("accuracy_at_cap", "Accuracy of the cleaned model", "fraction", accuracy_at_cap, True),
)
"""In the order of their weight."""


def hull_mean(points: Sequence[tuple[float, float]], cap: float) -> float:
    """Mean over x from 0 to `cap` of the concave hull of `points`, as a best value up to x."""
    # Upper hull by Andrew's monotone chain. A threshold also allows what lies below it, so that
    # after its peak the hull stays at the peak.
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and (x == hull[-1][0] or y <= hull[-1][1]):
            continue
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (y - y0) < (y1 - y0) * (x - x0):
                break
            hull.pop()
        hull.append((x, y))
    grid = np.unique([0.0, cap, *(x for x, _ in hull if x < cap)])
    values = np.interp(grid, *np.transpose(hull))
    return float(np.trapezoid(values, grid)) / cap


def _logits(ends: pd.DataFrame) -> np.ndarray:
    """Logits of the ASR, (runs,), with half an image added to both counts."""
    attacked = ends.attacked.to_numpy(float)
    return np.asarray(np.log((attacked + 0.5) / (ends.attackable.to_numpy(float) - attacked + 0.5)))
