"""What studies.html and attack.html show: variants, what was measured over a number, attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry of report.json and where it lies there."""

    path: str
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AttackRow:
    """A variant of a study of pre-training: where its models' measures lie, by objective."""

    number: float
    variant: str
    why: str
    seeds: list[int]
    measures: dict[str, str]
    """By objective, the path of the point's measures in report.json; only of those that were run.
    """


@dataclass(frozen=True, slots=True)
class AttackTable:
    """What a study of pre-training measured over one number."""

    axis: str
    study: str
    question: str
    dataset: str
    rows: list[AttackRow]
    taken_from: dict[str, float | None]
    """By objective, the lowest number from which on the attack takes; None where it never does."""


def variants(document: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What each variant changes, by study and variant."""
    return {
        study["name"]: {variant["variant"]: variant for variant in study["variants"]}
        for study in document["studies"]
    }


def by_study(document: Mapping[str, Any], part: str) -> dict[str, list[Placed]]:
    """The entries of a part of report.json by the study that they are of, those of studies that
    clean.
    """
    found: dict[str, list[Placed]] = {}
    for index, entry in enumerate(document[part]):
        if entry["clean_size"]:
            found.setdefault(entry["study"], []).append(Placed(f"{part}/{index}", entry))
    return found


def attacks(document: dict[str, Any]) -> list[AttackTable]:
    """What studies that only pre-train measured, a table a number."""
    questions = {study["name"]: study["question"] for study in document["studies"]}
    described = variants(document)
    taken = document["settings"]["attack_taken"]
    return [
        AttackTable(
            axis=entry["axis"],
            study=entry["study"],
            question=questions[entry["study"]],
            dataset=entry["dataset"],
            rows=_attack_rows(entry, f"responses/{index}", described[entry["study"]]),
            taken_from={
                curve["pretrain_objective"]: _taken_from(curve, taken) for curve in entry["curves"]
            },
        )
        for index, entry in enumerate(document["responses"])
        if not entry["clean_size"]
    ]


def _attack_rows(
    entry: Mapping[str, Any], path: str, described: Mapping[str, Any]
) -> list[AttackRow]:
    """A row a variant, by rising number; the curves of both objectives meet in it."""
    rows: dict[str, AttackRow] = {}
    for c, curve in enumerate(entry["curves"]):
        for p, point in enumerate(curve["points"]):
            name = point["variant"]
            new = AttackRow(point["number"], name, described[name]["why"], point["seeds"], {})
            row = rows.setdefault(name, new)
            row.measures[curve["pretrain_objective"]] = f"{path}/curves/{c}/points/{p}/measures"
    return sorted(rows.values(), key=lambda row: row.number)


def _taken_from(curve: Mapping[str, Any], threshold: float) -> float | None:
    """The lowest number from which on the mean ASR is at least `threshold`, at every higher one
    too.
    """
    found = None
    for point in reversed(curve["points"]):
        if point["measures"]["asr"]["mean"] < threshold:
            break
        found = point["number"]
    return found
