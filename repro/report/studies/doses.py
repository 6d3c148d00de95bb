"""Dose and effect: what a study measured over a number that several of its variants set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from repro.report.schema.studies import DoseCurve, DoseEntry, EffectRow
from repro.report.studies.results import StudyResults
from repro.spec import CleanSize, Dataset, Objective

FEWEST = 3
"""Variants that make a curve, beside the reference."""
RESPONSES = ("asr", "cleaned_accuracy")
"""Measures of an outcome that a curve may show: the first one that the number moves."""


class CleanedModel(NamedTuple):
    """What a curve is of."""

    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None


def doses(
    study: StudyResults, rows: Sequence[EffectRow], value_of: Callable[[str], float]
) -> list[DoseEntry]:
    """One entry a path that at least three variants set and nothing else: a curve a model.

    `rows` are those of `repro.report.studies.effects.effects`; `value_of` gives what the profile,
    and so the reference, has at a path.
    """
    found = []
    for path, by_variant in _numbers(study).items():
        # The reference stands on the curve with the number that the profile itself has.
        if len(by_variant) >= FEWEST:
            numbers = {study.spec.reference: value_of(path), **by_variant}
            found.append(_dose(study.name, path, numbers, rows))
    return found


def _numbers(study: StudyResults) -> dict[str, dict[str, float]]:
    """By dotted path: the number that a variant sets there, of variants that set nothing else."""
    numbers: dict[str, dict[str, float]] = defaultdict(dict)
    for name, variant in study.spec.variants.items():
        # Two changes at once would mix their effects.
        if len(variant.overrides) != 1:
            continue
        ((path, value),) = variant.overrides.items()

        # A switch is no dose, though bool is a subclass of int.
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[path][name] = value
    return numbers


def _dose(
    study: str, path: str, numbers: Mapping[str, float], rows: Sequence[EffectRow]
) -> DoseEntry:
    # Each variant has one row a model; together they make the model's curve.
    by_model: dict[CleanedModel, list[EffectRow]] = defaultdict(list)
    for row in rows:
        if row["variant"] in numbers:
            model = CleanedModel(row["dataset"], row["pretrain_objective"], row["clean_size"])
            by_model[model].append(row)

    # One measure for all curves of an entry, so that they share an axis.
    moved = [name for name in RESPONSES if _moves(name, by_model)]
    measure = moved[0] if moved else RESPONSES[0]
    return {
        "study": study,
        "path": path,
        "measure": measure,
        "curves": [
            _curve(model, of_model, numbers, measure) for model, of_model in by_model.items()
        ],
    }


def _moves(measure: str, by_model: Mapping[CleanedModel, Sequence[EffectRow]]) -> bool:
    """Whether the number moves the measure of some model."""
    # Seed by seed: equal values on every seed mean that the number does nothing.
    return any(
        row["values"][measure] != rows[0]["values"][measure]
        for rows in by_model.values()
        for row in rows
    )


def _curve(
    model: CleanedModel, rows: Sequence[EffectRow], numbers: Mapping[str, float], measure: str
) -> DoseCurve:
    # By the number and not by the variant's place in the file, since a line joins the points.
    ordered = sorted(rows, key=lambda row: numbers[row["variant"]])
    return {
        "dataset": model.dataset,
        "pretrain_objective": model.objective,
        "clean_size": model.clean_size,
        "points": [
            {
                "number": numbers[row["variant"]],
                "mean": row["means"][measure],
                "values": row["values"][measure],
                "not_cleaned": row["not_cleaned"] if measure == "cleaned_accuracy" else 0,
            }
            for row in ordered
        ],
    }
