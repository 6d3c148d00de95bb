"""Measures of one model and all its CleanCLIP runs in one setting.

docs/method.md defines the measures; shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from repro.report.cells import CLEANCLIP
from repro.report.claims import Claims
from repro.report.points import PRINTED, start_models, untouched_starts
from repro.spec import CleanSize, Dataset, Loss, Objective, Profile


class Value(NamedTuple):
    """A measure of one model, or of one seed."""

    value: float
    at_least: bool = False
    at_most: bool = False


class Context(NamedTuple):
    """What measures need besides a model; but for the cap, fields as in specs/claims.yaml."""

    cap: float
    """Highest ASR of a cleaned model."""
    rate: float | None
    hull_cap: float
    kept_share: float
    weak_start: float

    @classmethod
    def of(cls, claims: Claims, profile: Profile) -> Context:
        """As the claims file has it for a profile."""
        rules, cap = claims.rules, profile.evaluate.asr_cap
        rate = rules.rate.get(profile.name)
        return cls(cap, rate, rules.hull_cap, claims.kept_share, rules.weak_start)


BEST_FIRST = {"accuracy": False, "asr": True, "epoch": True, "run": True, "index": True}
"""Order of evaluations, the best first: columns, and whether they rise."""


def best_under_cap(points: pd.DataFrame, cap: float) -> pd.Series | None:
    """The best evaluation with an ASR of at most `cap`: ties go to the lower ASR, then to the
    earlier one.
    """
    allowed = points[points.asr <= cap]
    if allowed.empty:
        return None
    # Few are the most accurate, and only these have to be put in order.
    best = allowed[allowed.accuracy == allowed.accuracy.max()]
    if len(best) > 1:
        best = best.sort_values([*BEST_FIRST], ascending=[*BEST_FIRST.values()])
    return best.iloc[0]


@dataclass(frozen=True)
class CleanedModel:
    """A model and its finetuning runs of one kind in one setting; `start` is it before them."""

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
        last = self.points.drop_duplicates("run", keep="last")
        whole = ~last.diverged.astype(bool) & last.learning_rate.notna()
        return last[whole].sort_values("learning_rate")

    @cached_property
    def best(self) -> pd.Series | None:
        """The best evaluation at the threshold."""
        return best_under_cap(self.points, self.context.cap)


Quantity = Callable[[CleanedModel], Value | None]
"""What is measured of one model; None where it cannot be."""


class Models(NamedTuple):
    """Which models: those of one objective from some arms, and how they are cleaned."""

    arms: tuple[str, ...]
    """As `<study>/<variant>`; several have other seeds each."""
    objective: Objective
    dataset: Dataset
    clean_size: CleanSize | None = None
    """None for the models before cleaning."""
    loss: Loss = CLEANCLIP


class Evaluations:
    """Evaluations of all arms, the models that they are of, and what is measured of these."""

    def __init__(self, frame: pd.DataFrame, context: Context) -> None:
        """`frame` is one of repro/report/points.py."""
        self.frame = frame.assign(arm=frame.study + "/" + frame.variant)
        self.context = context
        by_model = self.frame.groupby(["arm", "dataset", "pretrain_objective"])
        self._rows = dict(list(by_model))
        # Once for each: many contrasts ask for the same models and measures.
        self.models = cache(self._models)
        self.values = cache(self._values)

    def _models(self, of: Models) -> dict[int, CleanedModel]:
        """The models by seed, without those that are right on no image before cleaning."""
        found: dict[int, CleanedModel] = {}
        for arm in of.arms:
            rows = self._rows.get((arm, of.dataset, of.objective), self.frame[:0])
            found |= self._cleaned(rows, of) if of.clean_size else self._started(rows)
        return found

    def _started(self, rows: pd.DataFrame) -> dict[int, CleanedModel]:
        # A start that is printed only is no measured one.
        starts = start_models(rows[rows.run != PRINTED])
        return {
            int(start.seed): CleanedModel(start, rows[:0], self.context)
            for _, start in starts.iterrows()
        }

    def _cleaned(self, rows: pd.DataFrame, of: Models) -> dict[int, CleanedModel]:
        handed_on = rows[(rows.stage == "pretrain") & rows.handed_on.astype(bool)]
        starts = {start.seed: start for _, start in handed_on.iterrows()}
        of_setting = (rows.clean_size == of.clean_size) & (rows.loss == of.loss)
        cleaning = rows[(rows.stage == "clean") & of_setting]
        models = {}
        for seed, runs in cleaning.groupby("seed"):
            start = starts[seed] if seed in starts else self._met(runs)
            if start is not None and start.accuracy and (runs.step > 0).any():
                models[int(seed)] = CleanedModel(start, runs, self.context)
        return models

    def _met(self, runs: pd.DataFrame) -> pd.Series | None:
        """The start model as one of its runs met it, else as any run of the study did."""
        own = untouched_starts(runs)
        if len(own):
            return own.iloc[0]
        return self._met_by_study.get((runs.study.iloc[0], runs.model.iloc[0]))

    @cached_property
    def _met_by_study(self) -> dict[tuple[str, str], pd.Series]:
        """Start models by study and hash of their weights."""
        met = untouched_starts(self.frame).drop_duplicates(["study", "model"])
        return {(start.study, start.model): start for _, start in met.iterrows()}

    def _values(self, of: Models, quantity: Quantity) -> dict[int, Value]:
        """A measure by seed, of the models that have one."""
        values = {seed: quantity(model) for seed, model in self.models(of).items()}
        return {seed: value for seed, value in values.items() if value is not None}


def rate_doublings(model: CleanedModel) -> Value | None:
    """log2 of the learning rate whose run ends at the threshold, between the rates of the grid."""
    if model.ends.empty:
        return None
    x = np.log2(model.ends.learning_rate.to_numpy(float))
    y = _logits(model.ends)
    cap = model.context.cap
    cleans = np.flatnonzero(model.ends.asr <= cap)
    if not len(cleans):
        return Value(x[-1], at_least=True)
    first = cleans[0]
    if first == 0:
        return Value(x[0], at_most=True)
    x0, x1 = x[first - 1 : first + 1]
    y0, y1 = y[first - 1 : first + 1]
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


def best_at_lowest_rate(model: CleanedModel) -> Value | None:
    """1 where the best model at the threshold lies at the lowest learning rate tried, else 0."""
    return _best_at(model, "min")


def best_at_highest_rate(model: CleanedModel) -> Value | None:
    """1 where the best model at the threshold lies at the highest learning rate tried, else 0."""
    return _best_at(model, "max")


def _best_at(model: CleanedModel, end: Literal["min", "max"]) -> Value | None:
    if model.best is None or len(model.ends) < 2:
        return None
    return Value(float(model.best.learning_rate == getattr(model.ends.learning_rate, end)()))


LOSSES_OF_ACCURACY = np.linspace(0.0, 0.2, 201)
"""Shares of the start accuracy over which `asr_frontier` is averaged."""


def asr_frontier(model: CleanedModel) -> Value | None:
    """Mean over losses of accuracy from 0 to 20% of the start of the test ASR of the evaluation
    with the lowest ASR on the validation images among those that lose no more there.
    """
    if not model.start.validation_accuracy > 0:
        return None
    states = pd.concat([model.start.to_frame().T, model.points])
    kept = (states.validation_accuracy / model.start.validation_accuracy).to_numpy(float)
    known = states.validation_asr.to_numpy(float)
    tested = states.test_asr.to_numpy(float)
    left = []
    for lost in LOSSES_OF_ACCURACY:
        allowed = np.flatnonzero(kept >= 1 - lost)
        lowest = allowed[np.argmin(known[allowed])]
        left.append(tested[lowest])
    return Value(float(np.mean(left)))


def asr_blind(model: CleanedModel) -> Value:
    """Test ASR at the end of the run with the highest learning rate that loses at most 5% of the
    accuracy on the validation images; of the start model where every run loses more.
    """
    kept = model.ends[model.ends.validation_accuracy >= 0.95 * model.start.validation_accuracy]
    return Value((model.start if kept.empty else kept.iloc[-1]).test_asr)


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
    if best is None or last is None:
        return None
    return Value(1 - last.accuracy / best.accuracy)


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
    Measure("asr_blind", "ASR left without knowing the trigger", "fraction", asr_blind),
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
    Measure("best_at_lowest_rate", "Best at the lowest rate", "fraction", best_at_lowest_rate),
    Measure("best_at_highest_rate", "Best at the highest rate", "fraction", best_at_highest_rate),
)
"""All of them, those of the verdicts first, in the order of their weight."""
BY_NAME = {measure.name: measure for measure in MEASURES}
MAIN = ("asr_left_at_rate", "rate_doublings", "lost_at_cap", "accuracy_at_cap")
"""Those that tables of few columns show."""
BEFORE = ("start_accuracy", "start_asr")
"""Measures of a model that is not cleaned."""
KEYS = ["arm", "dataset", "clean_size", "loss", "pretrain_objective"]
"""What names the models of a comparison; size and loss are "" before cleaning."""


def at_rate(rate: float) -> str:
    """Name of the ASR left at a learning rate, in the frame of `measured`."""
    return f"asr_left_at_{rate:g}"


def measured(evaluations: Evaluations) -> pd.DataFrame:
    """Every measure of every model: a row with KEYS, measure and seed as its index, and the columns
    value, low and high. An end is infinite where the value is a bound.
    """
    frame = evaluations.frame
    cleaning = frame[frame.stage == "clean"]
    cleaned = cleaning[KEYS].drop_duplicates().itertuples(index=False, name=None)
    started = frame[["arm", "dataset", "pretrain_objective"]].drop_duplicates()

    rows = []
    for arm, dataset, size, loss, objective in cleaned:
        models = evaluations.models(Models((arm,), objective, dataset, size, loss))
        for seed, model in models.items():
            key = (arm, dataset, size, loss, objective)
            rows += [(*key, name, seed, *ends) for name, ends in _measures_of(model)]
    for arm, dataset, objective in started.itertuples(index=False, name=None):
        for seed, model in evaluations.models(Models((arm,), objective, dataset)).items():
            for name in BEFORE:
                value = model.start[name.removeprefix("start_")]
                rows.append((arm, dataset, "", "", objective, name, seed, value, value, value))
    columns = [*KEYS, "measure", "seed", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:-3]).sort_index()


def _measures_of(model: CleanedModel) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Name and value, low, high of each measure that the model has."""
    for measure in MEASURES:
        if (found := measure.of(model)) is not None:
            value = found.value
            low = -math.inf if found.at_most else value
            yield measure.name, (value, low, math.inf if found.at_least else value)
    for rate, asr in zip(model.ends.learning_rate, model.ends.asr, strict=True):
        yield at_rate(rate), (asr, asr, asr)


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
    xs, ys = np.transpose(hull)
    grid = np.unique([0.0, cap, *xs[xs < cap]])
    return float(np.trapezoid(np.interp(grid, xs, ys), grid)) / cap


def _logits(ends: pd.DataFrame) -> Any:
    """Logits of the ASR, array (runs,), with half an image added to both counts."""
    missed = ends.attackable - ends.attacked
    odds = (ends.attacked + 0.5) / (missed + 0.5)
    return np.log(odds.to_numpy(float))
