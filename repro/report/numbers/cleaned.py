"""The best cleaned model of a cell: which evaluation it is, what it cost, and whether CleanCLIP
works there at all (the positive control).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, Cell
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.schema.base import Source
from repro.report.schema.results import AccuracyDrop, PairedChange, PositiveControl
from repro.spec import CleanSize, Dataset


class ControlRule(NamedTuple):
    """When the positive control holds (specs/claims.yaml), fractions."""

    kept_share: float
    """Share of its start accuracy that the MMCL model keeps at the cap."""
    attack_taken: float
    """Start ASR from which on there was a backdoor to clean."""


class ControlOutcome(NamedTuple):
    """What CleanCLIP did to one poisoned MMCL model, fractions."""

    start_asr: float
    lost: float
    """Share of the start accuracy at the best evaluation at the cap; 1 if none met it."""
    asr: float
    """Of that evaluation; the lowest of all if none met the cap."""
    cleaned: bool


def judged_control(outcomes: list[ControlOutcome], rule: ControlRule) -> PositiveControl | None:
    """The positive control by the means over seeds; None where nothing was run."""
    if not outcomes:
        return None
    start, lost = fmean(of.start_asr for of in outcomes), fmean(of.lost for of in outcomes)

    # A share is a ratio of counts, so that 95% kept may come out as a loss of 0.05 and a trifle.
    enough = lost <= 1 - rule.kept_share + 1e-9
    return {
        "holds": enough and start >= rule.attack_taken,
        "loss": lost,
        "asr": fmean(of.asr for of in outcomes),
        "start_asr": start,
        "seeds": len(outcomes),
        "cleaned": sum(of.cleaned for of in outcomes),
    }


def positive_control(
    evidence: Evidence,
    paper: Paper,
    dataset: Dataset,
    size: CleanSize,
    rule: ControlRule,
    source: Source = "ledger",
) -> PositiveControl | None:
    """Whether CleanCLIP cleans the poisoned MMCL model of a dataset with so many pairs.

    Only then does it tell anything that it fails on the MMCL + SSL model. None where it was not
    tried.
    """
    # The authors' series join runs and name no seed.
    seeds = evidence.settings.seeds if source == "ledger" else (None,)
    cell = Cell(dataset, size, "mmcl")
    found = []
    for seed in seeds:
        points = evidence.cleaning(dataset, "mmcl", size, CLEANCLIP, seed, source)
        if seed is None:
            start = authors_or_printed_start(evidence, paper, cell)
        else:
            start = evidence.start(dataset, "mmcl", seed)

        # A share of no accuracy is nothing.
        if points and start is not None and start.correct:
            found.append(_control_outcome(start, points, evidence.settings.cap))
    return judged_control(found, rule)


def _control_outcome(start: Point, points: list[Point], cap: float) -> ControlOutcome:
    best = best_under_cap(points, cap)

    # No rate cleans it: all is lost, and the lowest ASR says how near it came.
    if best is None:
        return ControlOutcome(start.asr, 1.0, min(point.asr for point in points), cleaned=False)
    return ControlOutcome(start.asr, 1 - best.accuracy / start.accuracy, best.asr, cleaned=True)


def authors_or_printed_start(evidence: Evidence, paper: Paper, cell: Cell) -> Point | None:
    """The start model of the authors' points of a cell, None where there are no points of it.

    Their CC6M files hold no evaluation of it: then it is what the paper prints in Table 2, as
    counts of the authors' images.
    """
    # Printed numbers are a last resort: they are rounded to 0.01%, not counts.
    points = evidence.cleaning(
        cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, source="authors"
    )
    measured = evidence.authors_start(cell.dataset, cell.objective, cell.clean_size)
    printed = paper.start(cell.dataset, cell.objective)
    if measured or not points or not printed:
        return measured

    # An evaluation that was never published, in the authors' own counts; `run` says whence it is.
    like = points[0]
    return replace(
        like,
        step=0,
        correct=round(printed.accuracy * like.images),
        attacked=round(printed.asr * like.attackable),
        run="Table 2 of the paper",
        index=0,
    )


def best_under_cap(points: Iterable[Point], cap: float) -> Point | None:
    """The most accurate evaluation at the cap; ties go to the lower ASR, then the earlier."""
    return min(
        (point for point in points if point.asr <= cap),
        key=lambda point: (-point.accuracy, point.asr, point.epoch or 0, point.run, point.index),
        default=None,
    )


def drop(evidence: Evidence, start: Point | None, best: Point | None) -> AccuracyDrop | None:
    """Relative loss of accuracy from the start model to the best cleaned one.

    From paired images where bits are there.
    """
    # A share of no accuracy is nothing.
    if start is None or best is None or start.correct == 0:
        return None

    # On the same images, what counts is how many changed sides: a far narrower interval than that
    # of two independent samples.
    both: int | None = None
    paired: PairedChange | None = None
    before, after = evidence.correct(start), evidence.correct(best)
    if before is not None and after is not None:
        both = int((before & after).sum())
        paired = _paired(evidence, best.correct - both, start.correct - both, best.images)

    # Both models were evaluated on as many images, so one total serves.
    value, interval = intervals.relative_drop(
        start.correct, best.correct, best.images, both, evidence.settings.confidence
    )
    return {"value": value, "ci": interval, "paired": paired}


def _paired(evidence: Evidence, gained: int, lost: int, images: int) -> PairedChange:
    change, interval = intervals.paired_difference(
        gained, lost, images, evidence.settings.confidence
    )
    return {
        "gained": gained,
        "lost": lost,
        "change": change,
        "ci": interval,
        "p_value": intervals.mcnemar(gained, lost),
    }
