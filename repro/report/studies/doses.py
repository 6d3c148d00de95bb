"""Dose and effect: what a study measured over a number that several of its variants set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from repro.report.studies.effects import StudyResults

FEWEST = 3
"""Variants that make a curve, beside the reference."""
RESPONSES = ("asr", "cleaned_accuracy")
"""Measures of an outcome that a curve may show: the first one that the number moves."""


def doses(
    study: StudyResults, rows: list[dict[str, Any]], value_of: Callable[[str], float]
) -> list[dict[str, Any]]:
    """One entry a path that at least three variants set and nothing else: a curve a model and cleaning size, a value a seed.

    `rows` are those of `repro.report.studies.effects.effects`; `value_of` gives what the profile, and so the reference, has at a path.
    """
    numbers: dict[str, dict[str, float]] = defaultdict(dict)
    for name, variant in study.outline.variants.items():
        for path, value in variant.overrides.items() if len(variant.overrides) == 1 else ():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers[path][name] = value
    return [
        _dose(study.name, path, {study.outline.reference: value_of(path), **by_variant}, rows)
        for path, by_variant in numbers.items()
        if len(by_variant) >= FEWEST
    ]


def _dose(
    study: str, path: str, numbers: dict[str, float], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    models: dict[tuple[str, str, str | None], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["variant"] in numbers:
            models[row["dataset"], row["pretrain_objective"], row["clean_size"]].append(row)
    moved = [
        name
        for name in RESPONSES
        if any(
            row["values"][name] != of_model[0]["values"][name]
            for of_model in models.values()
            for row in of_model
        )
    ]
    measure = moved[0] if moved else RESPONSES[0]
    return {
        "study": study,
        "path": path,
        "measure": measure,
        "curves": [
            {
                "dataset": dataset,
                "pretrain_objective": objective,
                "clean_size": size,
                "points": [
                    {
                        "number": numbers[row["variant"]],
                        "mean": row["means"][measure],
                        "values": row["values"][measure],
                    }
                    for row in sorted(of_model, key=lambda row: numbers[row["variant"]])
                ],
            }
            for (dataset, objective, size), of_model in models.items()
        ],
    }
