"""From claims to verdicts: the measured quantity of every claim, cell and seed, with its interval.

Each metric is a function of a `JudgedCell` (study, source, cell, seed) and returns an estimate, its interval and the runs it
rests on, or None where nothing was run. All quantities are fractions. A cell in which no evaluation reached the ASR cap
counts as a loss of the whole accuracy: cleaning left no model that one would deploy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from repro.intervals import Interval, wilson
from repro.report.numbers import intervals
from repro.report.numbers.claims import Bound, Claim, Claims, Metric, Verdict, agree, combine, judge
from repro.report.numbers.evaluations import Evidence, Point
from repro.report.numbers.tables import best_under_cap, drop
from repro.spec import CleanSize, Dataset, Loss, Objective

NONE_REACHED = "no evaluation reached the cap"


@dataclass(frozen=True, slots=True)
class JudgedCell:
    """Where a claim is looked at."""

    study: Evidence
    kept_share: float
    source: Literal["ledger", "authors"]
    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None
    loss: Loss | None
    seed: int | None

    @property
    def start(self) -> Point | None:
        """The model that is cleaned."""
        if self.source == "authors":
            points = self.study.cleaning(
                self.dataset,
                self.objective,
                self.clean_size or "100k",
                self.loss or "mmcl_ssl",
                source="authors",
            )
            return points[0] if points else None
        assert self.seed is not None
        return self.study.start(self.dataset, self.objective, self.seed)

    @property
    def points(self) -> list[Point]:
        """Its evaluations after cleaning has begun."""
        assert self.clean_size is not None
        points = self.study.cleaning(
            self.dataset, self.objective, self.clean_size, self.loss, self.seed, self.source
        )
        return points[1:] if self.source == "authors" else points

    @property
    def best(self) -> Point | None:
        """The most accurate evaluation that meets the cap."""
        return best_under_cap(self.points, self.study.settings.cap)

    @property
    def last(self) -> Point | None:
        """The last evaluation of the best one's run; the authors' points do not say where a run ends."""
        best = None if self.source == "authors" else self.best
        return best and max(
            (point for point in self.points if point.run == best.run), key=lambda p: p.index
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured value with its interval."""

    value: float
    interval: Interval
    runs: tuple[str, ...]
    note: str = ""


def _proportion(point: Point | None, place: JudgedCell, attack: bool) -> Quantity | None:
    if point is None:
        return None
    counts = (point.attacked, point.attackable) if attack else (point.correct, point.images)
    return Quantity(
        counts[0] / counts[1],
        wilson(*counts, place.study.settings.confidence),
        (point.run,),
    )


def start_accuracy(place: JudgedCell) -> Quantity | None:
    """Zero-shot top-1 of the model that is cleaned."""
    return _proportion(place.start, place, attack=False)


def start_asr(place: JudgedCell) -> Quantity | None:
    """ASR of the model that is cleaned."""
    return _proportion(place.start, place, attack=True)


def accuracy_gain(place: JudgedCell) -> Quantity | None:
    """Accuracy of the MMCL + SSL model less that of the MMCL model, on the same images."""
    with_ssl, without = (
        replace(place, objective="mmcl_ssl").start,
        replace(place, objective="mmcl").start,
    )
    if with_ssl is None or without is None:
        return None
    confidence, runs = place.study.settings.confidence, (with_ssl.run, without.run)
    a, b = place.study.correct(with_ssl), place.study.correct(without)
    if a is None or b is None:
        pair = [(p.accuracy, wilson(p.correct, p.images, confidence)) for p in (with_ssl, without)]
        return Quantity(*intervals.difference(*pair[0], *pair[1]), runs, "images not paired")
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    note = f"McNemar p = {intervals.mcnemar(gained, lost):.2g}"
    return Quantity(*intervals.paired_difference(gained, lost, len(a), confidence), runs, note)


def cleaned_accuracy(place: JudgedCell) -> Quantity | None:
    """Best accuracy at ASR <= cap."""
    if not place.points:
        return None
    return _proportion(place.best, place, attack=False) or Quantity(
        0.0, (0.0, 0.0), _runs(place.points), NONE_REACHED
    )


def relative_drop(place: JudgedCell) -> Quantity | None:
    """Share of the start accuracy lost by the best evaluation at ASR <= cap."""
    points, start, best = place.points, place.start, place.best
    if not points or start is None:
        return None
    if best is None:
        return Quantity(1.0, (1.0, 1.0), _runs(points), NONE_REACHED)
    lost = drop(place.study, start, best)
    return Quantity(lost["value"], lost["ci"], (start.run, best.run)) if lost else None


def drop_difference(place: JudgedCell) -> Quantity | None:
    """Relative drop of the MMCL + SSL model less that of the MMCL model."""
    with_ssl, without = (
        relative_drop(replace(place, objective="mmcl_ssl")),
        relative_drop(replace(place, objective="mmcl")),
    )
    if with_ssl is None or without is None:
        return None
    estimate = intervals.difference(
        with_ssl.value, with_ssl.interval, without.value, without.interval
    )
    return Quantity(*estimate, with_ssl.runs + without.runs, with_ssl.note or without.note)


def kept_asr(place: JudgedCell) -> Quantity | None:
    """Lowest ASR among evaluations that keep `kept_share` of the start accuracy."""
    points, start = place.points, place.start
    if not points or start is None:
        return None
    kept = [point for point in points if point.accuracy >= place.kept_share * start.accuracy]
    return _proportion(min(kept, key=lambda p: p.asr, default=start), place, attack=True)


def lowest_asr(place: JudgedCell) -> Quantity | None:
    """Lowest ASR among all evaluations."""
    return _proportion(min(place.points, key=lambda p: p.asr, default=None), place, attack=True)


def late_drop(place: JudgedCell) -> Quantity | None:
    """Relative loss of accuracy from the best evaluation at ASR <= cap to the last one of the same run."""
    best, last = place.best, place.last
    lost = drop(place.study, best, last)
    return Quantity(lost["value"], lost["ci"], (best.run,)) if lost and best else None


def late_asr(place: JudgedCell) -> Quantity | None:
    """ASR at the end of the run that has the best evaluation at ASR <= cap."""
    return _proportion(place.last, place, attack=True)


METRICS: dict[Metric, Callable[[JudgedCell], Quantity | None]] = {
    "start_accuracy": start_accuracy,
    "start_asr": start_asr,
    "accuracy_gain": accuracy_gain,
    "cleaned_accuracy": cleaned_accuracy,
    "relative_drop": relative_drop,
    "drop_difference": drop_difference,
    "kept_asr": kept_asr,
    "lowest_asr": lowest_asr,
    "late_drop": late_drop,
    "late_asr": late_asr,
}
ABOUT_BOTH: tuple[Metric, ...] = ("accuracy_gain", "drop_difference")
"""Metrics that compare the two pre-training objectives: their cells have no objective of their own."""
ABOUT_START: tuple[Metric, ...] = ("start_accuracy", "start_asr", "accuracy_gain")


def verdicts(
    study: Evidence, claims: Claims, variants: Mapping[str, Evidence]
) -> list[dict[str, Any]]:
    """Every claim with its verdict from our ledger and, where they are at hand, from the authors' points.

    `variants`: runs of studies, by `<study>/<variant>`, for the claims that these decide.
    """
    rows = []
    for claim in claims.claims:
        decides = study if claim.study is None else variants.get(claim.study)
        ours = _evidence(decides, claims, claim, "ledger") if decides else []
        authors = (
            _evidence(study, claims, claim, "authors")
            if study.authors and claim.study is None
            else []
        )
        rows.append(
            {
                **claim.model_dump(exclude={"expect", "direction"}),
                "expect": _words(claim.expect),
                "direction": _words(claim.direction),
                "verdict": combine([cell["verdict"] for cell in ours]),
                "evidence": ours,
                "authors_verdict": combine([cell["verdict"] for cell in authors])
                if study.authors
                else None,
                "authors_evidence": authors,
            }
        )
    return rows


def _evidence(
    study: Evidence, claims: Claims, claim: Claim, source: Literal["ledger", "authors"]
) -> list[dict[str, Any]]:
    if claim.metric == "none" or claim.expect is None:
        return []
    cells = []
    objectives = claim.objectives[:1] if claim.metric in ABOUT_BOTH else claim.objectives
    for dataset in claim.datasets:
        for size in claim.clean_sizes or (None,):
            for objective in objectives:
                seeds = study.settings.seeds if source == "ledger" else (None,)
                places = [
                    JudgedCell(
                        study, claims.kept_share, source, dataset, objective, size, claim.loss, seed
                    )
                    for seed in seeds
                ]
                by_seed = [
                    item
                    for place in places
                    if (item := _look(claim, claim.expect, place, claims.attack_taken))
                ]
                values = [item["value"] for item in by_seed]
                cells.append(
                    {
                        "dataset": dataset,
                        "clean_size": size,
                        "pretrain_objective": None if claim.metric in ABOUT_BOTH else objective,
                        "verdict": agree([item["verdict"] for item in by_seed]),
                        "by_seed": by_seed,
                        "spread": intervals.spread(values) if values else None,
                    }
                )
    return cells


def _look(
    claim: Claim, expect: Bound, place: JudgedCell, attack_taken: float
) -> dict[str, Any] | None:
    quantity = METRICS[claim.metric](place)
    if quantity is None:
        return None
    capped = claim.absolute and place.source == "ledger" and bool(place.study.settings.stand_in)
    verdict: Verdict = judge(expect, claim.direction, quantity.interval, capped)
    note = quantity.note
    if claim.metric not in ABOUT_START:
        starts = [
            replace(place, objective=o).start
            for o in (claim.objectives if claim.metric in ABOUT_BOTH else [place.objective])
        ]
        if any(start is not None and start.asr < attack_taken for start in starts):
            verdict, note = "undecided", "the start model was hardly poisoned"
    return {
        "seed": place.seed,
        "value": quantity.value,
        "ci": quantity.interval,
        "runs": list(dict.fromkeys(quantity.runs)),
        "note": note,
        "verdict": verdict,
    }


def _words(bound: Bound | None) -> str | None:
    if bound is None:
        return None
    if bound.about is not None:
        return f"{100 * bound.about:g}% within {100 * bound.margin:g} points"
    return (
        f"at least {100 * bound.at_least:g}%"
        if bound.at_least is not None
        else f"at most {100 * (bound.at_most or 0):g}%"
    )


def _runs(points: list[Point]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(point.run for point in points))
