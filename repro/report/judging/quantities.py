"""The measured quantity of a claim in one cell and seed, with its interval.

Each metric is a function of a `JudgedCell` and returns an estimate, its interval and the runs it
rests on, or None where nothing was run. All quantities are fractions. A cell in which no evaluation
reached the ASR cap counts as a loss of the whole accuracy: cleaning left no model that one would
deploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from repro.intervals import Interval, wilson
from repro.report.numbers import intervals
from repro.report.numbers.cells import OBJECTIVES, Cell
from repro.report.numbers.cleaned import authors_or_printed_start, best_under_cap, drop
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.numbers.resistance import (
    ended,
    equal_runs,
    lowest_rate,
    mean_kept,
    trade_off_points,
)
from repro.report.schema.base import Source
from repro.report.schema.judged import Metric, Untested
from repro.spec import CleanSize, Dataset, Loss, Objective

NONE_REACHED = "no evaluation reached the cap"


@dataclass(frozen=True, slots=True)
class JudgedCell:
    """Where a claim is looked at."""

    evidence: Evidence
    paper: Paper
    kept_share: float
    source: Source
    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None
    loss: Loss | None
    seed: int | None

    @property
    def start(self) -> Point | None:
        """The model that is cleaned; of the authors' as the paper prints it, if they do not say."""
        # Of our own models only what was measured counts, however the paper prints them.
        if self.source == "ledger":
            return self.measured_start

        # A claim about start models names no cleaning size; each was cleaned with 100K pairs.
        cell = Cell(self.dataset, self.clean_size or "100k", self.objective)
        return authors_or_printed_start(self.evidence, self.paper, cell)

    @property
    def measured_start(self) -> Point | None:
        """An evaluation of the model that is cleaned."""
        if self.source == "authors":
            size = self.clean_size or "100k"
            return self.evidence.authors_start(self.dataset, self.objective, size)

        # Claims are looked at seed by seed in the ledger.
        assert self.seed is not None
        return self.evidence.start(self.dataset, self.objective, self.seed)

    @property
    def points(self) -> list[Point]:
        """Its evaluations after cleaning has begun."""
        # `Claim` makes sure of it for every metric that asks for evaluations after cleaning.
        assert self.clean_size is not None
        return self.evidence.cleaning(
            self.dataset, self.objective, self.clean_size, self.loss, self.seed, self.source
        )

    @property
    def best(self) -> Point | None:
        """The most accurate evaluation that meets the cap."""
        return best_under_cap(self.points, self.evidence.settings.cap)

    @property
    def last(self) -> Point | None:
        """The last evaluation of the best one's run; the authors do not say where a run ends."""
        best = self.best
        if best is None or self.source == "authors":
            return None

        # `index` is the evaluation's row, so the highest is the end of training.
        of_run = [point for point in self.points if point.run == best.run]
        return max(of_run, key=lambda point: point.index)

    def of(self, objective: Objective) -> JudgedCell:
        """The same place for models of another pre-training objective."""
        return replace(self, objective=objective)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured value with its interval."""

    value: float
    interval: Interval | None
    """None where images give none, as for a learning rate."""
    runs: tuple[str, ...]
    note: str = ""
    untested: Untested | None = None
    """Why it is no measurement: it fell back on something that cannot speak against a claim."""


def start_accuracy(cell: JudgedCell) -> Quantity | None:
    """Zero-shot top-1 of the model that is cleaned."""
    return _accuracy(cell.measured_start, cell)


def start_asr(cell: JudgedCell) -> Quantity | None:
    """ASR of the model that is cleaned."""
    return _asr(cell.measured_start, cell)


def accuracy_gain(cell: JudgedCell) -> Quantity | None:
    """Accuracy of the MMCL + SSL model less that of the MMCL model, on the same images."""
    with_ssl, without = cell.of("mmcl_ssl").measured_start, cell.of("mmcl").measured_start
    if with_ssl is None or without is None:
        return None
    confidence, runs = cell.evidence.settings.confidence, (with_ssl.run, without.run)

    # Of the authors' points and of archived runs there are counts, but no bits to pair.
    right, right_without = cell.evidence.correct(with_ssl), cell.evidence.correct(without)
    if right is None or right_without is None:
        value, interval = intervals.difference(
            with_ssl.accuracy,
            wilson(with_ssl.correct, with_ssl.images, confidence),
            without.accuracy,
            wilson(without.correct, without.images, confidence),
        )
        return Quantity(value, interval, runs, "images not paired")

    # (N,) bits of the same images: only those on which the models differ tell them apart.
    gained = int((right & ~right_without).sum())
    lost = int((right_without & ~right).sum())
    value, interval = intervals.paired_difference(gained, lost, len(right), confidence)
    note = f"McNemar p = {intervals.mcnemar(gained, lost):.2g}"
    return Quantity(value, interval, runs, note)


def cleaned_accuracy(cell: JudgedCell) -> Quantity | None:
    """Best accuracy at ASR <= cap."""
    if not cell.points:
        return None

    # Cleaned, but to no model within the cap: all accuracy is lost, which is no estimate and so
    # has an interval without width.
    if cell.best is None:
        return Quantity(0.0, (0.0, 0.0), _runs(cell.points), NONE_REACHED)
    return _accuracy(cell.best, cell)


def accuracy_drop(cell: JudgedCell) -> Quantity | None:
    """Share of the start accuracy lost by the best evaluation at ASR <= cap."""
    points, start, best = cell.points, cell.start, cell.best
    if not points or start is None:
        return None

    # No model that one would deploy: all is lost (specs/claims.yaml).
    if best is None:
        return Quantity(1.0, (1.0, 1.0), _runs(points), NONE_REACHED)

    lost = drop(cell.evidence, start, best)
    if lost is None:
        return None
    return Quantity(lost["value"], lost["ci"], (start.run, best.run))


def drop_difference(cell: JudgedCell) -> Quantity | None:
    """Relative drop of the MMCL + SSL model less that of the MMCL model."""
    with_ssl, without = accuracy_drop(cell.of("mmcl_ssl")), accuracy_drop(cell.of("mmcl"))
    if with_ssl is None or without is None:
        return None

    # Taken as two independent estimates, each with the interval that it has.
    assert with_ssl.interval is not None and without.interval is not None
    value, interval = intervals.difference(
        with_ssl.value, with_ssl.interval, without.value, without.interval
    )
    note = with_ssl.note or without.note
    return Quantity(value, interval, with_ssl.runs + without.runs, note)


def kept_asr(cell: JudgedCell) -> Quantity | None:
    """Lowest ASR among evaluations that keep `kept_share` of the start accuracy."""
    points, start = cell.points, cell.start
    if not points or start is None:
        return None

    enough = cell.kept_share * start.accuracy
    kept = [point for point in points if point.accuracy >= enough]
    if kept:
        return _asr(_lowest(kept), cell)

    # Where no evaluation keeps enough, the start model itself is what one would keep.
    note = f"no evaluation keeps {100 * cell.kept_share:g}% of the accuracy: the start model's"
    return _fallback(_asr(start, cell), "not tested: accuracy not kept", note)


def lowest_asr(cell: JudgedCell) -> Quantity | None:
    """Lowest ASR among all evaluations."""
    return _asr(_lowest(cell.points), cell)


def late_drop(cell: JudgedCell) -> Quantity | None:
    """Relative loss of accuracy from the best evaluation at the cap to the last of the same run."""
    # None for the authors' points, whose series do not say where a run ends.
    best = cell.best
    lost = drop(cell.evidence, best, cell.last)
    if best is None or lost is None:
        return None
    return _later(Quantity(lost["value"], lost["ci"], (best.run,)), cell)


def late_asr(cell: JudgedCell) -> Quantity | None:
    """ASR at the end of the run that has the best evaluation at ASR <= cap."""
    return _later(_asr(cell.last, cell), cell)


def asr_left_difference(cell: JudgedCell) -> Quantity | None:
    """ASR left in the MMCL + SSL model less that in the MMCL model, at equal rate and steps.

    At the lowest rate whose run takes the MMCL model to the cap at its end.
    """
    # The authors' points name no rate.
    if cell.seed is None or cell.clean_size is None:
        return None
    settings = cell.evidence.settings
    runs = equal_runs(cell.evidence, cell.dataset, cell.clean_size, cell.seed)
    cleaned = [pair for pair in runs if pair.mmcl.point.asr <= settings.cap]
    if not runs:
        return None

    # Where no rate does, the highest one stands for them, and tells nothing.
    pair = cleaned[0] if cleaned else runs[-1]
    with_ssl, mmcl = pair.mmcl_ssl.point, pair.mmcl.point
    value, interval = intervals.difference(
        with_ssl.asr,
        wilson(with_ssl.attacked, with_ssl.attackable, settings.confidence),
        mmcl.asr,
        wilson(mmcl.attacked, mmcl.attackable, settings.confidence),
    )
    quantity = Quantity(value, interval, (with_ssl.run, mmcl.run), f"learning rate {pair.rate:g}")
    return quantity if cleaned else _not_cleaned(quantity)


def lowest_rate_ratio(cell: JudgedCell) -> Quantity | None:
    """Lowest rate that takes the MMCL + SSL model to the cap, as a share of the MMCL model's.

    A lower bound where a rate lies beyond those that were tried.
    """
    if cell.seed is None or cell.clean_size is None:
        return None

    # Of both models the rate, and whether it lies within the rates that were tried.
    reached, runs = [], []
    for objective in ("mmcl_ssl", "mmcl"):
        ends = ended(cell.evidence, Cell(cell.dataset, cell.clean_size, objective), cell.seed)
        if not ends:
            return None
        reached.append(lowest_rate(ends, cell.evidence.settings.cap, cell.seed))
        runs += [end.point.run for end in ends]
    with_ssl, mmcl = reached

    bound = with_ssl["side"] == "above" or mmcl["side"] == "below"
    note = "at least: beyond the rates that were tried" if bound else ""
    quantity = Quantity(with_ssl["rate"] / mmcl["rate"], None, tuple(runs), note)
    return _not_cleaned(quantity) if mmcl["side"] == "above" else quantity


def kept_difference(cell: JudgedCell) -> Quantity | None:
    """What the MMCL model keeps of its accuracy, less what the MMCL + SSL model keeps, in the mean
    over the ASRs that one may allow.
    """
    assert cell.clean_size is not None
    found = [
        trade_off_points(
            cell.evidence,
            cell.paper,
            Cell(cell.dataset, cell.clean_size, objective),
            cell.seed if cell.source == "ledger" else None,
        )
        for objective in OBJECTIVES
    ]
    known = [of for of in found if of is not None]
    if len(known) < len(found):
        return None
    mmcl, with_ssl = known
    runs = _runs(mmcl[0]) + _runs(with_ssl[0])
    return Quantity(mean_kept(*mmcl) - mean_kept(*with_ssl), None, runs)


QUANTITIES: dict[Metric, Callable[[JudgedCell], Quantity | None]] = {
    "start_accuracy": start_accuracy,
    "start_asr": start_asr,
    "accuracy_gain": accuracy_gain,
    "cleaned_accuracy": cleaned_accuracy,
    "relative_drop": accuracy_drop,
    "drop_difference": drop_difference,
    "kept_asr": kept_asr,
    "lowest_asr": lowest_asr,
    "late_drop": late_drop,
    "late_asr": late_asr,
    "asr_left_difference": asr_left_difference,
    "lowest_rate_ratio": lowest_rate_ratio,
    "kept_difference": kept_difference,
}
"""Every metric that can be measured."""


def _accuracy(point: Point | None, cell: JudgedCell) -> Quantity | None:
    if point is None:
        return None
    interval = wilson(point.correct, point.images, cell.evidence.settings.confidence)
    return Quantity(point.accuracy, interval, (point.run,))


def _asr(point: Point | None, cell: JudgedCell) -> Quantity | None:
    if point is None:
        return None
    interval = wilson(point.attacked, point.attackable, cell.evidence.settings.confidence)
    return Quantity(point.asr, interval, (point.run,))


def _not_cleaned(quantity: Quantity) -> Quantity | None:
    note = "no run takes the MMCL model to the cap at its end"
    return _fallback(quantity, "not tested: control failed", note)


def _later(quantity: Quantity | None, cell: JudgedCell) -> Quantity | None:
    """What is measured after the best evaluation, where its run goes on."""
    if cell.last != cell.best:
        return quantity
    note = "the best evaluation is the last of its run"
    return _fallback(quantity, "not tested: best evaluation is the last", note)


def _fallback(quantity: Quantity | None, untested: Untested, note: str) -> Quantity | None:
    return None if quantity is None else replace(quantity, untested=untested, note=note)


def _lowest(points: list[Point]) -> Point | None:
    return min(points, key=lambda point: point.asr, default=None)


def _runs(points: list[Point]) -> tuple[str, ...]:
    # Each run once, in the order of their evaluations.
    return tuple(dict.fromkeys(point.run for point in points))
