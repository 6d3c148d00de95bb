"""How far models resist CleanCLIP: what is left at equal finetuning, which rate it takes, and what
cleaning costs for any ASR that one allows.

Ours, not the paper's. All shares are fractions; differences are MMCL + SSL less MMCL where nothing
else is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from repro.intervals import Interval
from repro.report.keyed import Keyed
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, OBJECTIVES, TABLE1_ROWS, Cell
from repro.report.numbers.evaluations import Point, Source
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.intervals import Effect
from repro.report.numbers.paper import Paper
from repro.report.numbers.tables import authors_or_printed_start
from repro.spec import CleanSize, Dataset, Objective

HIGHEST_CAP = 0.20
"""Highest ASR at which the trade-off is looked at."""
CAPS = tuple(step / 200 for step in range(41))
"""ASR thresholds at which the curve is given: 0 to `HIGHEST_CAP` by half a point."""


@dataclass(frozen=True, slots=True)
class EndState(Keyed):
    """A model at the end of a cleaning run."""

    seed: int
    asr: float
    accuracy: float
    kept: float
    """Accuracy as a share of the start model's."""
    run: str


@dataclass(frozen=True, slots=True)
class EqualFinetuning(Keyed):
    """Both models after as many steps at one learning rate; lists have the same seeds in order."""

    learning_rate: float
    step: int
    mmcl: list[EndState]
    mmcl_ssl: list[EndState]
    asr: Effect
    """ASR left, over seeds."""
    kept: Effect
    """Share of the start accuracy that is kept, over seeds."""


@dataclass(frozen=True, slots=True)
class ReachedRate(Keyed):
    """The lowest learning rate whose run ends at the ASR threshold."""

    seed: int
    rate: float
    """Interpolated; of the lowest or highest that was tried where it lies beyond them."""
    side: Literal["between", "below", "above"]
    """Between two rates that were tried, at or below the lowest, or above all."""


@dataclass(frozen=True, slots=True)
class LowestRates(Keyed):
    """Lowest rates of both models; lists have the same seeds in order."""

    mmcl: list[ReachedRate]
    mmcl_ssl: list[ReachedRate]
    ratio: float | None
    """Geometric mean over seeds of the MMCL + SSL model's rate over that of the MMCL model; None
    where on some seed no rate cleans the MMCL model, or every rate the other one.
    """
    ratio_ci: Interval | None
    """Student's, of the logarithms; None for one seed."""
    at_least: bool
    """Whether the ratio of some seed is a lower bound only."""


@dataclass(frozen=True, slots=True)
class TradeOff(Keyed):
    """Share of the start accuracy kept against the ASR threshold, means over seeds."""

    source: Source
    seeds: int
    mmcl: list[float]
    """At the thresholds of `Resistance`; a seed without a model at one counts as 0."""
    mmcl_ssl: list[float]
    area: Effect
    """Mean over the thresholds of what the MMCL model keeps, less what the other one keeps."""


@dataclass(frozen=True, slots=True)
class ResistanceCell(Keyed):
    """The two models of a dataset, cleaned with as many pairs."""

    dataset: Dataset
    clean_size: CleanSize
    equal: list[EqualFinetuning]
    """By rising learning rate."""
    rates: LowestRates | None
    """None where no seed has runs of both models."""
    trade_offs: list[TradeOff]
    """Ours, then the authors', as far as there are any."""


@dataclass(frozen=True, slots=True)
class Resistance(Keyed):
    """How far MMCL + SSL models resist CleanCLIP more than MMCL models do."""

    study: str | None
    """The study whose seeds it is over; None for the runs of this report."""
    seeds: list[int]
    caps: list[float]
    """ASR thresholds at which the trade-offs are given."""
    cells: list[ResistanceCell]


class Ended(NamedTuple):
    """The last evaluation of a cleaning run, and its share of the start accuracy."""

    point: Point
    kept: float

    @property
    def rate(self) -> float:
        """Learning rate; our own runs have one."""
        assert self.point.learning_rate is not None
        return self.point.learning_rate

    def state(self, seed: int) -> EndState:
        """As the report has it."""
        return EndState(seed, self.point.asr, self.point.accuracy, self.kept, self.point.run)


def resistance(evidence: Evidence, paper: Paper, study: str | None = None) -> Resistance:
    """The resistance of every dataset and cleaning size that has evaluations of both models.

    `study`: whose runs the evidence is of; None for those of the report itself.
    """
    cells = []
    for dataset, size in TABLE1_ROWS:
        trade_offs = [
            found
            for source in ("ledger", "authors")
            if (found := _trade_off(evidence, paper, dataset, size, source)) is not None
        ]
        equal = _equal(evidence, dataset, size)
        if equal or trade_offs:
            rates = _rates(evidence, dataset, size)
            cells.append(ResistanceCell(dataset, size, equal, rates, trade_offs))
    return Resistance(study, list(evidence.settings.seeds), list(CAPS), cells)


def ended(evidence: Evidence, cell: Cell, seed: int) -> list[Ended]:
    """The ends of the CleanCLIP runs of a cell and seed that did not diverge, by rising rate."""
    start = evidence.start(cell.dataset, cell.objective, seed)
    if start is None or start.correct == 0:
        return []
    # Rows come in the order of training, so that the last of a run is what stays.
    points = evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed)
    last = {point.run: point for point in points if point.run not in evidence.diverged}
    ends = [Ended(point, point.accuracy / start.accuracy) for point in last.values()]
    return sorted(ends, key=lambda end: end.rate)


def lowest_rate(ends: Sequence[Ended], cap: float, seed: int) -> ReachedRate:
    """The lowest rate whose run ends at the threshold; `ends` by rising rate, not none.

    Between the rate that first ends there and the one below it, the ASR is taken as linear in the
    rate's logarithm.
    """
    for below, end in zip([None, *ends], ends, strict=False):
        if end.point.asr > cap:
            continue
        if below is None:
            return ReachedRate(seed, end.rate, "below")
        way = (below.point.asr - cap) / (below.point.asr - end.point.asr)
        log = math.log(below.rate) + way * math.log(end.rate / below.rate)
        return ReachedRate(seed, math.exp(log), "between")
    return ReachedRate(seed, ends[-1].rate, "above")


def threshold_sweep(accuracy: Sequence[float], asr: Sequence[float]) -> list[tuple[float, float]]:
    """Best accuracy as a function of the cap: its steps (cap, accuracy), both rising."""
    # Let the cap rise: at each ASR that occurs, the best model so far may be replaced.
    by_rate = sorted(zip(asr, accuracy, strict=True), key=lambda pair: (pair[0], -pair[1]))
    steps: list[tuple[float, float]] = []
    for rate, value in by_rate:
        if not steps or value > steps[-1][1]:
            steps.append((rate, value))
    return steps


def kept_at(points: Sequence[Point], start: Point, cap: float) -> float:
    """Share of the start accuracy of the best model at an ASR of at most `cap`; 0 if none is."""
    return max((point.accuracy for point in points if point.asr <= cap), default=0.0) / (
        start.accuracy
    )


def mean_kept(points: Sequence[Point], start: Point) -> float:
    """Mean of `kept_at` over all thresholds from 0 to `HIGHEST_CAP`, exact."""
    # Steps of the best accuracy over the threshold: each holds until the next one, or to the end.
    steps = threshold_sweep([point.accuracy for point in points], [point.asr for point in points])
    ends = [*(cap for cap, _ in steps[1:]), HIGHEST_CAP]
    area = sum(
        accuracy * max(0.0, min(end, HIGHEST_CAP) - cap)
        for (cap, accuracy), end in zip(steps, ends, strict=True)
    )
    return area / HIGHEST_CAP / start.accuracy


def _equal(evidence: Evidence, dataset: Dataset, size: CleanSize) -> list[EqualFinetuning]:
    # By rate and steps, then by seed.
    groups: dict[tuple[float, int], list[tuple[int, Ended, Ended]]] = {}
    for seed in evidence.settings.seeds:
        mmcl, with_ssl = (ended(evidence, Cell(dataset, size, of), seed) for of in OBJECTIVES)
        others = {(end.rate, end.point.step): end for end in with_ssl}
        for end in mmcl:
            key = (end.rate, end.point.step or 0)
            if key in others:
                groups.setdefault(key, []).append((seed, end, others[key]))

    found = []
    for (rate, step), runs in sorted(groups.items()):
        confidence = evidence.settings.confidence
        asr = [(ssl.point.asr, mmcl.point.asr) for _, mmcl, ssl in runs]
        asr_left = intervals.paired_effect(asr, confidence)
        kept = intervals.paired_effect([(ssl.kept, mmcl.kept) for _, mmcl, ssl in runs], confidence)
        assert asr_left is not None and kept is not None
        mmcl_states = [mmcl.state(seed) for seed, mmcl, _ in runs]
        ssl_states = [ssl.state(seed) for seed, _, ssl in runs]
        found.append(EqualFinetuning(rate, step, mmcl_states, ssl_states, asr_left, kept))
    return found


def _rates(evidence: Evidence, dataset: Dataset, size: CleanSize) -> LowestRates | None:
    mmcl, with_ssl = [], []
    for seed in evidence.settings.seeds:
        # Paired over seeds: one that lacks a model is left out.
        ends = [ended(evidence, Cell(dataset, size, of), seed) for of in OBJECTIVES]
        if all(ends):
            mmcl.append(lowest_rate(ends[0], evidence.settings.cap, seed))
            with_ssl.append(lowest_rate(ends[1], evidence.settings.cap, seed))
    if not mmcl:
        return None

    ratio, interval = None, None
    pairs = list(zip(with_ssl, mmcl, strict=True))
    if all(ssl.side != "below" and other.side != "above" for ssl, other in pairs):
        ratios = [ssl.rate / other.rate for ssl, other in pairs]
        ratio, interval = intervals.geometric(ratios, evidence.settings.confidence)
    at_least = any(ssl.side == "above" or other.side == "below" for ssl, other in pairs)
    return LowestRates(mmcl, with_ssl, ratio, interval, at_least)


def _trade_off(
    evidence: Evidence, paper: Paper, dataset: Dataset, size: CleanSize, source: Source
) -> TradeOff | None:
    # The authors' series join runs and name no seed.
    curves: dict[Objective, list[list[float]]] = {of: [] for of in OBJECTIVES}
    areas = []
    for seed in evidence.settings.seeds if source == "ledger" else (None,):
        found = {}
        for of in OBJECTIVES:
            points = evidence.cleaning(dataset, of, size, CLEANCLIP, seed, source)
            if seed is None:
                start = authors_or_printed_start(evidence, paper, Cell(dataset, size, of))
            else:
                start = evidence.start(dataset, of, seed)
            if points and start is not None and start.correct:
                found[of] = points, start
        if len(found) < len(OBJECTIVES):
            continue
        for of, (points, start) in found.items():
            curves[of].append([kept_at(points, start, cap) for cap in CAPS])
        areas.append((mean_kept(*found["mmcl"]), mean_kept(*found["mmcl_ssl"])))

    area = intervals.paired_effect(areas, evidence.settings.confidence)
    if area is None:
        return None
    means = {
        of: [fmean(values) for values in zip(*by_seed, strict=True)]
        for of, by_seed in curves.items()
    }
    return TradeOff(source, len(areas), means["mmcl"], means["mmcl_ssl"], area)
