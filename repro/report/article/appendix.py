"""What the article's appendix tells: what the studies decided, and whose pictures the data are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repro.report.studies.outcomes import MEASURES
from repro.report.studies.words import is_nought

NO_LICENCE = "licence not stated"


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A study with the rows that tell something."""

    entry: Mapping[str, Any]
    seeds: int
    rows: list[Mapping[str, Any]]
    """The reference, and what was decided or left a model uncleaned."""
    undecided: list[str]
    """Variants of which nothing was decided."""
    interactions: list[Mapping[str, Any]]
    """Of these, the decided ones."""
    sizes: list[Mapping[str, Any]]
    responses: list[Mapping[str, Any]]
    """What was measured over a number."""
    equal_starts: list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Credits:
    """Whose pictures were used under one licence."""

    licence: str
    works: list[str]


def study_tables(document: Mapping[str, Any]) -> list[StudyTable]:
    """Every study, with the rows that tell something."""
    return [_study_table(document, study) for study in document["studies"]]


def _study_table(document: Mapping[str, Any], study: Mapping[str, Any]) -> StudyTable:
    shown = [row for row in study["rows"] if _tells(row, study["reference"])]
    told = {row["variant"] for row in shown}
    tried = (row["variant"] for row in study["rows"])
    return StudyTable(
        entry=study,
        seeds=max(len(row["seeds"]) for row in study["rows"]),
        rows=shown,
        undecided=[name for name in dict.fromkeys(tried) if name not in told],
        interactions=[row for row in study["interactions"] if _decided(row["effect"])],
        sizes=[row for row in study["sizes"] if row["effect"] and _decided(row["effect"])],
        responses=_of(study, document["responses"]),
        equal_starts=_of(study, document["equal_starts"]),
    )


def _of(study: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["study"] == study["name"]]


def _tells(row: Mapping[str, Any], reference: str) -> bool:
    if row["variant"] == reference or row["not_cleaned"] or row["could_change"] == "yes":
        return True
    effects = row["effects"] or {}
    return any(_decided(effects[measure]) for measure in MEASURES if effects.get(measure))


def _decided(effect: Any) -> bool:
    return not effect["undecided"] and not is_nought(effect)


def picture_credits(document: Mapping[str, Any]) -> list[Credits]:
    """Titles and authors of the pictures' sets, by licence; none where the data are not here."""
    attribution = document["context"]["attribution"] or {}
    found: dict[str, list[str]] = {}
    for entry in attribution.get("images", []):
        work = f"{entry['title']} by {entry['copyright']}"
        found.setdefault(entry["license"] or NO_LICENCE, []).append(work)
    return [Credits(licence, works) for licence, works in sorted(found.items())]
