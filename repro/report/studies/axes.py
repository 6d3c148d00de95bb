"""What a study measured over a number in which its variants differ (`axes` of its specification),
and how far models resist cleaning that were equally good before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import pandas as pd

from repro.report.numbers.cells import DATASETS, OBJECTIVES
from repro.report.studies.estimates import Effect, Measured, measured
from repro.report.studies.tables import LOWEST, Cell, StudyTable
from repro.spec import CleanSize, Dataset, Objective
from repro.study.spec import Axis, Study

FEWEST_STARTS = 2
"""MMCL models of other accuracies, beside the reference, among which an equal one is looked for."""
MEASURED = ("accuracy", "asr", "asr_left", "lost")


@dataclass(frozen=True, slots=True)
class ResponsePoint:
    """The models of one variant at its number."""

    variant: str
    number: float
    seeds: list[int]
    measures: dict[str, Measured]
    """By MEASURED, those that some seed has."""
    not_cleaned: int
    """Seeds on which no evaluation reached the ASR threshold: of these `lost` is a lower bound."""


@dataclass(frozen=True, slots=True)
class ResponseCurve:
    """The models of one objective, by rising number."""

    pretrain_objective: Objective
    points: list[ResponsePoint]


@dataclass(frozen=True, slots=True)
class EffectAt:
    """An effect at one number."""

    number: float
    effect: Effect


@dataclass(frozen=True, slots=True)
class Response:
    """What a study measured over one of its axes, in one dataset and with one cleaning size."""

    study: str
    axis: str
    dataset: Dataset
    clean_size: CleanSize | None
    """None where the study does not clean."""
    learning_rate: float | None
    """Of the runs whose end is `asr_left`; None where the study does not clean."""
    curves: list[ResponseCurve]
    tested: Literal["asr_left", "asr"]
    """The measure of `changes` and `gaps`: the ASR left, else the ASR before cleaning."""
    changes: dict[Objective, list[EffectAt]]
    """At every number but the lowest: less what is measured at the lowest."""
    gaps: list[EffectAt]
    """MMCL + SSL less MMCL, at the lowest number and at the highest, where both were run."""


@dataclass(frozen=True, slots=True)
class MatchedModel:
    """One of the two models of a seed."""

    variant: str
    accuracy: float
    """Before cleaning, fraction."""
    asr_left: float
    lost: float
    cleaned: bool
    """Whether some evaluation reached the ASR threshold; else `lost` is a lower bound."""


@dataclass(frozen=True, slots=True)
class MatchedSeed:
    """The MMCL + SSL model of the reference, and the MMCL model that comes closest to it."""

    seed: int
    mmcl: MatchedModel
    mmcl_ssl: MatchedModel


@dataclass(frozen=True, slots=True)
class EqualStarts:
    """Resistance at equal accuracy before cleaning; effects are MMCL + SSL less MMCL."""

    study: str
    dataset: Dataset
    clean_size: CleanSize
    learning_rate: float
    seeds: list[MatchedSeed]
    accuracy: Effect
    """What is left of the difference before cleaning."""
    asr_left: Effect
    lost: Effect


def responses(name: str, table: StudyTable, rate: float | None) -> list[Response]:
    """One entry an axis of the study, dataset and cleaning size that has runs.

    `rate`: the learning rate at which `asr_left` of the table was measured.
    """
    found = []
    for axis, dataset, size in product(table.study.axes, DATASETS, _sizes(table.study)):
        curves = [
            ResponseCurve(objective, points)
            for objective in OBJECTIVES
            if (points := list(_points(table, axis, dataset, objective, size)))
        ]
        if not curves:
            continue
        measures = {name for curve in curves for point in curve.points for name in point.measures}
        tested: Literal["asr_left", "asr"] = "asr_left" if "asr_left" in measures else "asr"
        found.append(
            Response(
                study=name,
                axis=axis.name,
                dataset=dataset,
                clean_size=size,
                learning_rate=None if size is None else rate,
                curves=curves,
                tested=tested,
                changes=_changes(table, curves, tested),
                gaps=_gaps(table, curves, tested),
            )
        )
    return found


def equal_starts(name: str, table: StudyTable, rate: float | None) -> list[EqualStarts]:
    """The reference's MMCL + SSL models against MMCL models that were as good before cleaning: one
    entry a dataset and cleaning size.

    Of every seed the MMCL model is taken, among those of all variants, whose accuracy before
    cleaning is nearest. None of a study that has no MMCL models of other accuracies.
    """
    study = table.study
    others = [
        variant
        for variant in study.variants.values()
        if variant.models is None and "mmcl" in variant.pretrain_objectives
    ]
    if rate is None or not study.axes or len(others) < FEWEST_STARTS:
        return []

    found = []
    for dataset, size in product(DATASETS, _sizes(study)):
        seeds = list(_matched(table, dataset, size))
        pairs = {
            measure: table.effect(
                pd.Series([getattr(s.mmcl_ssl, measure) - getattr(s.mmcl, measure) for s in seeds])
            )
            for measure in ("accuracy", "asr_left", "lost")
        }
        accuracy, asr_left, lost = pairs.values()
        if size is not None and accuracy and asr_left and lost:
            found.append(EqualStarts(name, dataset, size, rate, seeds, accuracy, asr_left, lost))
    return found


def _sizes(study: Study) -> list[CleanSize | None]:
    return [*study.clean_sizes] if "clean" in study.stages else [None]


def _points(
    table: StudyTable, axis: Axis, dataset: Dataset, objective: Objective, size: CleanSize | None
) -> Iterator[ResponsePoint]:
    # By the number and not by the variant's place in the file, since a line joins the points.
    for variant, number in sorted(axis.numbers.items(), key=lambda item: item[1]):
        found = table.cells.get(Cell(variant, dataset, objective, size))
        if found is None:
            continue
        measures = {}
        for name in MEASURED:
            values = [None if pd.isna(value) else float(value) for value in found[name]]
            if any(value is not None for value in values):
                lowest = LOWEST.get(name, -math.inf)
                measures[name] = measured(values, table.confidence, lowest, highest=1.0)
        not_cleaned = int((found.tried & ~found.cleaned).sum())
        seeds = [int(seed) for seed in found.index]
        yield ResponsePoint(variant, number, seeds, measures, not_cleaned)


def _less(
    table: StudyTable, point: ResponsePoint, other: ResponsePoint, measure: str
) -> Effect | None:
    """One point less another, paired over seeds."""
    first, second = (
        pd.Series(dict(zip(one.seeds, one.measures[measure].values, strict=True)), dtype=float)
        if measure in one.measures
        else pd.Series(dtype=float)
        for one in (point, other)
    )
    return table.effect(first - second)


def _changes(
    table: StudyTable, curves: list[ResponseCurve], measure: str
) -> dict[Objective, list[EffectAt]]:
    changes = {}
    for curve in curves:
        lowest, *higher = curve.points
        effects = [
            EffectAt(point.number, effect)
            for point in higher
            if (effect := _less(table, point, lowest, measure)) is not None
        ]
        if effects:
            changes[curve.pretrain_objective] = effects
    return changes


def _gaps(table: StudyTable, curves: list[ResponseCurve], measure: str) -> list[EffectAt]:
    points = {
        curve.pretrain_objective: {point.number: point for point in curve.points}
        for curve in curves
    }
    shared = sorted(points.get("mmcl", {}).keys() & points.get("mmcl_ssl", {}).keys())
    # The two ends may be one.
    ends = dict.fromkeys([*shared[:1], *shared[-1:]])
    gaps = [
        (end, _less(table, points["mmcl_ssl"][end], points["mmcl"][end], measure)) for end in ends
    ]
    return [EffectAt(number, effect) for number, effect in gaps if effect is not None]


def _matched(table: StudyTable, dataset: Dataset, size: CleanSize | None) -> Iterator[MatchedSeed]:
    """Of each seed the MMCL + SSL model of the reference, and the MMCL model nearest to it."""
    models: dict[tuple[str, int], list[MatchedModel]] = {}
    for cell, found in table.cells.items():
        if (cell.dataset, cell.clean_size) != (dataset, size):
            continue
        if cell.pretrain_objective == "mmcl_ssl" and cell.variant != table.study.reference:
            continue
        for seed, outcome in found.dropna(subset=["accuracy", "asr_left", "lost"]).iterrows():
            model = MatchedModel(
                cell.variant,
                float(outcome.accuracy),
                float(outcome.asr_left),
                float(outcome.lost),
                bool(outcome.cleaned),
            )
            models.setdefault((cell.pretrain_objective, int(seed)), []).append(model)

    for (objective, seed), (with_ssl, *_) in models.items():
        others = models.get(("mmcl", seed), [])
        if objective == "mmcl_ssl" and others:
            nearest = min(others, key=lambda model: abs(model.accuracy - with_ssl.accuracy))
            yield MatchedSeed(seed, nearest, with_ssl)
