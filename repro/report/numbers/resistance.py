"""How far models resist CleanCLIP: what is left at equal finetuning, which rate it takes, and what
cleaning costs for any ASR that one allows.

Ours, not the paper's. "Best accuracy at the cap" is a blunt measure: at a high enough rate every
model is cleaned. All shares are fractions; differences are MMCL + SSL less MMCL where nothing else
is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, TABLE1_ROWS, Cell
from repro.report.numbers.cleaned import authors_or_printed_start
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.numbers.selection import threshold_sweep
from repro.report.schema.base import Source
from repro.report.schema.resistance import (
    EndState,
    EqualFinetuning,
    LowestRates,
    ReachedRate,
    Resistance,
    ResistanceCell,
    TradeOff,
)
from repro.spec import CleanSize, Dataset, Objective

HIGHEST_CAP = 0.20
"""Up to this ASR the trade-off is looked at; more is hardly cleaned."""
CAPS = tuple(step / 200 for step in range(41))
"""ASRs allowed, at which the curve is given: 0 to `HIGHEST_CAP` by half a point."""


class Ended(NamedTuple):
    """The last evaluation of a cleaning run, and what of the start accuracy it has."""

    point: Point
    kept: float

    @property
    def rate(self) -> float:
        """Learning rate; our own runs have one."""
        assert self.point.learning_rate is not None
        return self.point.learning_rate


class EqualRuns(NamedTuple):
    """Runs of the two models with equal rate and steps, of one seed."""

    mmcl: Ended
    mmcl_ssl: Ended

    @property
    def rate(self) -> float:
        """Learning rate of both."""
        return self.mmcl.rate


def resistance(evidence: Evidence, paper: Paper, study: str | None = None) -> Resistance:
    """The resistance of every dataset and cleaning size that has evaluations of both models.

    `study`: whose runs the evidence is of; None for those of the report itself.
    """
    cells = [_cell(evidence, paper, dataset, size) for dataset, size in TABLE1_ROWS]
    return {
        "study": study,
        "seeds": list(evidence.settings.seeds),
        "caps": list(CAPS),
        "cells": [cell for cell in cells if cell["equal"] or cell["trade_offs"]],
    }


def ended(evidence: Evidence, cell: Cell, seed: int) -> list[Ended]:
    """The end of every CleanCLIP run of a cell and seed, by rising learning rate.

    A run that diverged has no end.
    """
    start = evidence.start(cell.dataset, cell.objective, seed)
    if start is None or start.correct == 0:
        return []

    # Rows come in the order of training, so that the last of a run is what stays.
    points = evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed)
    last = {point.run: point for point in points if point.run not in evidence.diverged}
    found = [Ended(point, point.accuracy / start.accuracy) for point in last.values()]
    return sorted(found, key=lambda end: end.rate)


def equal_runs(evidence: Evidence, dataset: Dataset, size: CleanSize, seed: int) -> list[EqualRuns]:
    """Runs of the two models with equal learning rate and steps, by rising rate."""
    with_ssl = {
        (end.rate, end.point.step): end
        for end in ended(evidence, Cell(dataset, size, "mmcl_ssl"), seed)
    }
    return [
        EqualRuns(end, with_ssl[end.rate, end.point.step])
        for end in ended(evidence, Cell(dataset, size, "mmcl"), seed)
        if (end.rate, end.point.step) in with_ssl
    ]


def lowest_rate(ends: Sequence[Ended], cap: float, seed: int) -> ReachedRate:
    """The lowest rate whose run ends at an ASR of at most the cap; `ends` by rising rate, not none.

    Between the rate that first ends there and the one below it, the ASR is taken as linear in the
    rate's logarithm.
    """
    for below, end in zip([None, *ends], ends, strict=False):
        if end.point.asr > cap:
            continue
        if below is None:
            return {"seed": seed, "rate": end.rate, "side": "below"}

        # `below` ends above the cap, so the two ASRs differ.
        way = (below.point.asr - cap) / (below.point.asr - end.point.asr)
        log = math.log(below.rate) + way * math.log(end.rate / below.rate)
        return {"seed": seed, "rate": math.exp(log), "side": "between"}
    return {"seed": seed, "rate": ends[-1].rate, "side": "above"}


def kept_at(points: Sequence[Point], start: Point, cap: float) -> float:
    """Share of the start accuracy of the best model at an ASR of at most `cap`; 0 if none is."""
    return max((point.accuracy for point in points if point.asr <= cap), default=0.0) / (
        start.accuracy
    )


def mean_kept(points: Sequence[Point], start: Point) -> float:
    """Mean of `kept_at` over all caps from 0 to `HIGHEST_CAP`, exact."""
    # Steps of the best accuracy over the cap: each holds until the next one, or to the end.
    steps = threshold_sweep([point.accuracy for point in points], [point.asr for point in points])
    ends = [*(cap for cap, _ in steps[1:]), HIGHEST_CAP]
    area = sum(
        accuracy * max(0.0, min(end, HIGHEST_CAP) - cap)
        for (cap, accuracy), end in zip(steps, ends, strict=True)
    )
    return area / HIGHEST_CAP / start.accuracy


def trade_off_points(
    evidence: Evidence, paper: Paper, cell: Cell, seed: int | None
) -> tuple[list[Point], Point] | None:
    """CleanCLIP's evaluations of a cell and the model that they began from; None without any.

    The authors' where `seed` is None.
    """
    source: Source = "authors" if seed is None else "ledger"
    points = evidence.cleaning(
        cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed, source
    )
    if seed is None:
        start = authors_or_printed_start(evidence, paper, cell)
    else:
        start = evidence.start(cell.dataset, cell.objective, seed)
    if not points or start is None or start.correct == 0:
        return None
    return points, start


def _cell(evidence: Evidence, paper: Paper, dataset: Dataset, size: CleanSize) -> ResistanceCell:
    ours = _trade_off(evidence, paper, dataset, size, "ledger")
    authors = _trade_off(evidence, paper, dataset, size, "authors")
    return {
        "dataset": dataset,
        "clean_size": size,
        "equal": _equal(evidence, dataset, size),
        "rates": _rates(evidence, dataset, size),
        "trade_offs": [found for found in (ours, authors) if found is not None],
    }


def _equal(evidence: Evidence, dataset: Dataset, size: CleanSize) -> list[EqualFinetuning]:
    # By rate and steps, then by seed.
    groups: dict[tuple[float, int], list[tuple[int, EqualRuns]]] = {}
    for seed in evidence.settings.seeds:
        for pair in equal_runs(evidence, dataset, size, seed):
            key = (pair.rate, pair.mmcl.point.step or 0)
            groups.setdefault(key, []).append((seed, pair))

    found: list[EqualFinetuning] = []
    for (rate, step), pairs in sorted(groups.items()):
        confidence = evidence.settings.confidence
        asr = [(pair.mmcl_ssl.point.asr, pair.mmcl.point.asr) for _, pair in pairs]
        kept = [(pair.mmcl_ssl.kept, pair.mmcl.kept) for _, pair in pairs]
        asr_left = intervals.paired_effect(asr, confidence)
        kept_left = intervals.paired_effect(kept, confidence)

        # A group has a pair at least, and so an effect.
        assert asr_left is not None and kept_left is not None
        found.append(
            {
                "learning_rate": rate,
                "step": step,
                "mmcl": [_end_state(seed, pair.mmcl) for seed, pair in pairs],
                "mmcl_ssl": [_end_state(seed, pair.mmcl_ssl) for seed, pair in pairs],
                "asr": asr_left,
                "kept": kept_left,
            }
        )
    return found


def _end_state(seed: int, end: Ended) -> EndState:
    point = end.point
    return {
        "seed": seed,
        "asr": point.asr,
        "accuracy": point.accuracy,
        "kept": end.kept,
        "run": point.run,
    }


def _rates(evidence: Evidence, dataset: Dataset, size: CleanSize) -> LowestRates | None:
    cap = evidence.settings.cap
    reached: dict[Objective, list[ReachedRate]] = {"mmcl": [], "mmcl_ssl": []}
    for seed in evidence.settings.seeds:
        ends = {
            objective: ended(evidence, Cell(dataset, size, objective), seed)
            for objective in reached
        }
        # Paired over seeds: one that lacks a model is left out.
        if all(ends.values()):
            for objective, of in ends.items():
                reached[objective].append(lowest_rate(of, cap, seed))
    if not reached["mmcl"]:
        return None

    # Where nothing takes the MMCL model to the cap, or everything the other one, the rates that
    # were tried do not bound the ratio from below.
    pairs = list(zip(reached["mmcl_ssl"], reached["mmcl"], strict=True))
    ratio, ends_of_ratio = None, None
    if all(with_ssl["side"] != "below" and mmcl["side"] != "above" for with_ssl, mmcl in pairs):
        ratio, ends_of_ratio = intervals.geometric(
            [with_ssl["rate"] / mmcl["rate"] for with_ssl, mmcl in pairs],
            evidence.settings.confidence,
        )
    return {
        "mmcl": reached["mmcl"],
        "mmcl_ssl": reached["mmcl_ssl"],
        "ratio": ratio,
        "ratio_ci": ends_of_ratio,
        "at_least": any(
            with_ssl["side"] == "above" or mmcl["side"] == "below" for with_ssl, mmcl in pairs
        ),
    }


def _trade_off(
    evidence: Evidence, paper: Paper, dataset: Dataset, size: CleanSize, source: Source
) -> TradeOff | None:
    # The authors' series join runs and name no seed.
    seeds = evidence.settings.seeds if source == "ledger" else (None,)
    curves: dict[Objective, list[list[float]]] = {"mmcl": [], "mmcl_ssl": []}
    areas = []
    for seed in seeds:
        mmcl = trade_off_points(evidence, paper, Cell(dataset, size, "mmcl"), seed)
        with_ssl = trade_off_points(evidence, paper, Cell(dataset, size, "mmcl_ssl"), seed)
        if mmcl is None or with_ssl is None:
            continue
        curves["mmcl"].append([kept_at(*mmcl, cap) for cap in CAPS])
        curves["mmcl_ssl"].append([kept_at(*with_ssl, cap) for cap in CAPS])
        areas.append((mean_kept(*mmcl), mean_kept(*with_ssl)))

    area = intervals.paired_effect(areas, evidence.settings.confidence)
    if area is None:
        return None
    return {
        "source": source,
        "seeds": len(areas),
        "mmcl": _means(curves["mmcl"]),
        "mmcl_ssl": _means(curves["mmcl_ssl"]),
        "area": area,
    }


def _means(curves: Sequence[Sequence[float]]) -> list[float]:
    """Means over seeds, cap by cap."""
    return [fmean(values) for values in zip(*curves, strict=True)]
