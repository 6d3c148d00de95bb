"""What a study measured over a number in which its variants differ (`axes` of its specification),
and how far models resist cleaning that were equally good before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import get_args

from repro.intervals import Interval
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, DATASETS, OBJECTIVES, Cell
from repro.report.numbers.evidence import Evidence, Settings
from repro.report.numbers.resistance import ended, kept_at
from repro.report.schema.base import Effect
from repro.report.schema.resistance import Resistance
from repro.report.schema.studies import (
    BySeed,
    EffectAt,
    EqualStarts,
    MatchedModel,
    MatchedSeed,
    ResponseCurve,
    ResponseEntry,
    ResponseMeasure,
    ResponsePoint,
)
from repro.report.studies.results import StudyResults
from repro.spec import CleanSize, Dataset, Objective
from repro.study.spec import Axis

FEWEST_STARTS = 2
"""MMCL models of other accuracies, beside the reference, among which an equal one is looked for."""
MEASURED: tuple[ResponseMeasure, ...] = get_args(ResponseMeasure)
LOWEST: dict[ResponseMeasure, float] = {"accuracy": 0.0, "asr": 0.0, "asr_left": 0.0}
"""What a share cannot go below, nor any measure above 1; a model may lose less than nothing."""

Variants = Mapping[str, Evidence]
"""The runs of every variant of every study, as `<study>/<variant>`."""


@dataclass(frozen=True, slots=True)
class CleanedPlace:
    """What is looked at: models of a dataset, cleaned with as many pairs at one learning rate."""

    dataset: Dataset
    size: CleanSize | None
    rate: float | None

    def cell(self, objective: Objective) -> Cell | None:
        """The place in Table 1; None where nothing was cleaned."""
        return None if self.size is None else Cell(self.dataset, self.size, objective)


def cleaning_rate(
    resisted: Resistance, cap: float, dataset: Dataset, size: CleanSize | None
) -> float | None:
    """The lowest learning rate whose equal runs take the MMCL model to the cap on average over the
    seeds; None where none does.
    """
    for cell in resisted["cells"]:
        if (cell["dataset"], cell["clean_size"]) != (dataset, size):
            continue
        for row in cell["equal"]:  # by rising rate
            if fmean(end["asr"] for end in row["mmcl"]) <= cap:
                return row["learning_rate"]
    return None


def responses(
    study: StudyResults, variants: Variants, resisted: Resistance, settings: Settings
) -> list[ResponseEntry]:
    """One entry an axis of the study, dataset and cleaning size.

    `resisted` is the report's resistance, from which the learning rate is taken whose ends are
    compared.
    """
    found = [
        _response(study, axis, place, variants, settings.confidence)
        for axis, place in product(study.spec.axes, _places(study, resisted, settings.cap))
    ]
    return [entry for entry in found if entry["curves"]]


def decided_changes(entry: ResponseEntry) -> dict[Objective, list[EffectAt]]:
    """Of the entry's changes those above the spread between trainings."""
    decided = {
        objective: [change for change in changes if not change["effect"]["undecided"]]
        for objective, changes in entry["changes"].items()
    }
    return {objective: changes for objective, changes in decided.items() if changes}


def equal_starts(
    study: StudyResults, variants: Variants, resisted: Resistance, settings: Settings
) -> list[EqualStarts]:
    """The reference's MMCL + SSL models against MMCL models that were as good before cleaning: one
    entry a dataset and cleaning size.

    Of every seed the MMCL model is taken, among those of all variants, whose accuracy before
    cleaning is nearest. None of a study that has no MMCL models of other accuracies.
    """
    own = [
        name
        for name, variant in study.spec.variants.items()
        if variant.models is None and "mmcl" in variant.pretrain_objectives
    ]
    if not study.spec.axes or len(own) < FEWEST_STARTS:
        return []

    places = _places(study, resisted, settings.cap)
    found = [_matched(study, place, variants, settings.confidence) for place in places]
    return [entry for entry in found if entry is not None]


def _places(study: StudyResults, resisted: Resistance, cap: float) -> list[CleanedPlace]:
    """Where the study has runs; without a cleaning size where it does not clean."""
    spec = study.spec
    sizes: Sequence[CleanSize | None] = spec.clean_sizes if "clean" in spec.stages else [None]
    return [
        CleanedPlace(dataset, size, cleaning_rate(resisted, cap, dataset, size))
        for dataset in DATASETS
        if dataset in spec.datasets
        for size in sizes
    ]


def _response(
    study: StudyResults, axis: Axis, place: CleanedPlace, variants: Variants, confidence: float
) -> ResponseEntry:
    curves: list[ResponseCurve] = []
    for objective in OBJECTIVES:
        # By the number and not by the variant's place in the file, since a line joins the points.
        ordered = sorted(axis.numbers.items(), key=lambda item: item[1])
        points = [
            _point(
                name,
                number,
                variants.get(f"{study.name}/{name}"),
                place,
                objective,
                confidence,
            )
            for name, number in ordered
        ]
        shown = [point for point in points if point["measures"]]
        if shown:
            curves.append({"pretrain_objective": objective, "points": shown})

    measured = {name for curve in curves for point in curve["points"] for name in point["measures"]}
    tested: ResponseMeasure = "asr_left" if "asr_left" in measured else "asr"
    return {
        "study": study.name,
        "axis": axis.name,
        "dataset": place.dataset,
        "clean_size": place.size,
        "learning_rate": place.rate,
        "curves": curves,
        "tested": tested,
        "changes": _changes(curves, tested, confidence),
        "gaps": _gaps(curves, tested, confidence),
    }


def _point(
    name: str,
    number: float,
    evidence: Evidence | None,
    place: CleanedPlace,
    objective: Objective,
    confidence: float,
) -> ResponsePoint:
    measures: dict[ResponseMeasure, BySeed] = {}
    seeds = list(evidence.settings.seeds) if evidence else []
    of_seed = [_measures(evidence, place, objective, seed) for seed in seeds if evidence]

    for measure in MEASURED:
        values = [of.get(measure) for of in of_seed]
        known = [value for value in values if value is not None]
        if known:
            ci = _within(intervals.student(known, confidence), LOWEST.get(measure, -math.inf))
            measures[measure] = {"values": values, "mean": fmean(known), "ci": ci}
    return {"variant": name, "number": number, "seeds": seeds, "measures": measures}


def _within(interval: Interval | None, lowest: float) -> Interval | None:
    """The part of an interval of a share that can be; Student's of few seeds goes beyond it."""
    if interval is None:
        return None
    return max(lowest, interval[0]), min(1.0, interval[1])


def _measures(
    evidence: Evidence, place: CleanedPlace, objective: Objective, seed: int
) -> dict[ResponseMeasure, float]:
    """What is known of a model of a seed."""
    start = evidence.start(place.dataset, objective, seed)
    if start is None:
        return {}
    found: dict[ResponseMeasure, float] = {"accuracy": start.accuracy, "asr": start.asr}

    cell = place.cell(objective)
    if cell is None or start.correct == 0:
        return found
    points = evidence.cleaning(cell.dataset, objective, cell.clean_size, CLEANCLIP, seed)
    if points:
        found["lost"] = 1 - kept_at(points, start, evidence.settings.cap)
    for end in ended(evidence, cell, seed):
        if end.rate == place.rate:
            found["asr_left"] = end.point.asr
    return found


def _by_seed(point: ResponsePoint, measure: ResponseMeasure) -> dict[int, float | None]:
    values = point["measures"][measure]["values"] if measure in point["measures"] else []
    return dict(zip(point["seeds"], values, strict=False))


def _paired(
    of: ResponsePoint, less: ResponsePoint, measure: ResponseMeasure, confidence: float
) -> Effect | None:
    """One point less another, paired over seeds."""
    first, second = _by_seed(of, measure), _by_seed(less, measure)
    pairs = [(value, second.get(seed)) for seed, value in first.items()]
    return intervals.paired_effect(pairs, confidence)


def _changes(
    curves: Sequence[ResponseCurve], measure: ResponseMeasure, confidence: float
) -> dict[Objective, list[EffectAt]]:
    found: dict[Objective, list[EffectAt]] = {}
    for curve in curves:
        lowest, *higher = curve["points"]
        effects: list[EffectAt] = [
            {"number": point["number"], "effect": effect}
            for point in higher
            if (effect := _paired(point, lowest, measure, confidence)) is not None
        ]
        if effects:
            found[curve["pretrain_objective"]] = effects
    return found


def _gaps(
    curves: Sequence[ResponseCurve], measure: ResponseMeasure, confidence: float
) -> list[EffectAt]:
    of = {
        curve["pretrain_objective"]: {point["number"]: point for point in curve["points"]}
        for curve in curves
    }
    shared = sorted(of.get("mmcl", {}).keys() & of.get("mmcl_ssl", {}).keys())

    # The two ends, which may be one.
    gaps: list[EffectAt] = []
    for number in dict.fromkeys([*shared[:1], *shared[-1:]]):
        effect = _paired(of["mmcl_ssl"][number], of["mmcl"][number], measure, confidence)
        if effect is not None:
            gaps.append({"number": number, "effect": effect})
    return gaps


def _matched(
    study: StudyResults, place: CleanedPlace, variants: Variants, confidence: float
) -> EqualStarts | None:
    if place.size is None or place.rate is None:
        return None
    reference = variants.get(f"{study.name}/{study.spec.reference}")
    seeds = reference.settings.seeds if reference is not None else ()
    pairs = [pair for seed in seeds if (pair := _pair(study, place, variants, seed)) is not None]

    def effect(measure: Callable[[MatchedModel], float]) -> Effect | None:
        values = [(measure(of["mmcl_ssl"]), measure(of["mmcl"])) for of in pairs]
        return intervals.paired_effect(values, confidence)

    accuracy_left = effect(lambda model: model["accuracy"])
    asr_left = effect(lambda model: model["asr_left"])
    lost = effect(lambda model: model["lost"])
    if accuracy_left is None or asr_left is None or lost is None:
        return None
    return {
        "study": study.name,
        "dataset": place.dataset,
        "clean_size": place.size,
        "learning_rate": place.rate,
        "seeds": pairs,
        "accuracy": accuracy_left,
        "asr_left": asr_left,
        "lost": lost,
    }


def _pair(
    study: StudyResults, place: CleanedPlace, variants: Variants, seed: int
) -> MatchedSeed | None:
    """The reference's MMCL + SSL model of a seed, and the MMCL model that is nearest to it."""
    of_variant = {
        name: variants[f"{study.name}/{name}"]
        for name in study.spec.variants
        if f"{study.name}/{name}" in variants
    }
    others = [_model(name, of, place, "mmcl", seed) for name, of in of_variant.items()]
    known = [model for model in others if model is not None]

    reference = study.spec.reference
    with_ssl = _model(reference, of_variant[reference], place, "mmcl_ssl", seed)
    if with_ssl is None or not known:
        return None
    accuracy = with_ssl["accuracy"]
    nearest = min(known, key=lambda model: abs(model["accuracy"] - accuracy))
    return {"seed": seed, "mmcl": nearest, "mmcl_ssl": with_ssl}


def _model(
    name: str, evidence: Evidence, place: CleanedPlace, objective: Objective, seed: int
) -> MatchedModel | None:
    """A model of a seed; None where the ASR that is left of it, or the loss, is not known."""
    found = _measures(evidence, place, objective, seed)
    if "asr_left" not in found or "lost" not in found:
        return None
    return {
        "variant": name,
        "accuracy": found["accuracy"],
        "asr_left": found["asr_left"],
        "lost": found["lost"],
    }
