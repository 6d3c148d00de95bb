"""What all studies say together: choices that move a measure or turn a verdict, study by study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from repro.report.schema.base import Effect
from repro.report.schema.studies import EffectRow, MachineRow, StudyEntry
from repro.report.studies.prices import Price, prices
from repro.report.studies.words import effect_text, is_nought, model_name, not_cleaned

MOVED = {
    "cleaned_accuracy": "the best accuracy at the cap",
    "accuracy": "the accuracy before cleaning",
    "asr": "the ASR before cleaning",
}
"""Measures that are looked through for choices that move them."""

ByStudy = dict[str, list[str]]
"""By the name of a study: its choices in words; studies without one are left out."""


@dataclass(frozen=True)
class Overview:
    """What all studies of a profile say together."""

    prices: list[Price]
    changing: ByStudy
    """Choices that turn a decided verdict into another decided one."""
    moved: dict[str, ByStudy]
    """By what they move: choices that do so by more than the spread between trainings."""
    harder: ByStudy
    """Choices that move the two objectives differently."""
    with_interval: int
    """Effects that have an interval, those that are nought on every seed left out."""
    decided: int
    """Of these, the ones whose interval leaves zero out."""
    by_chance: float
    """How many would do so by chance alone."""
    not_cleaned: ByStudy
    """Models that no learning rate cleaned, with the number of seeds."""
    rounding: list[MachineRow]


def overview(
    studies: Sequence[StudyEntry], machines: Sequence[MachineRow], confidence: float
) -> Overview:
    """Choices that moved or turned something, over all studies, and how many would by chance."""
    # Effects on the measures that are looked through, of all variants of all studies.
    rows = [row for study in studies for row in study["rows"]]
    of_measures = [
        effect for row in rows for measure in MOVED if (effect := _effect(row, measure)) is not None
    ]

    # Differences between the objectives are looked through as well, so they count as tries too.
    differences = [row["effect"] for study in studies for row in study["interactions"]]

    # An effect that is nought on every seed was no try: nothing could leave zero out by chance.
    counted = [
        effect
        for effect in (*of_measures, *differences)
        if effect["ci"] is not None and not is_nought(effect)
    ]

    return Overview(
        prices=[price for study in studies for price in prices(study)],
        changing=_by_study(studies, _changing),
        moved={
            name: _by_study(studies, partial(_moved, measure=measure))
            for measure, name in MOVED.items()
        },
        harder=_by_study(studies, _harder),
        with_interval=len(counted),
        decided=sum(not effect["undecided"] for effect in counted),
        # At 95%, one interval in twenty misses the true value, zero here.
        by_chance=len(counted) * (1 - confidence),
        not_cleaned=_by_study(studies, _not_cleaned),
        rounding=[row for row in machines if row["difference"]["cleaned_accuracy"] is not None],
    )


def _by_study(
    studies: Sequence[StudyEntry], choices: Callable[[StudyEntry], Iterable[str]]
) -> ByStudy:
    # A choice that shows in several claims or cells is told once.
    found = {study["name"]: list(dict.fromkeys(choices(study))) for study in studies}
    return {name: texts for name, texts in found.items() if texts}


def _changing(study: StudyEntry) -> Iterator[str]:
    for row in study["rows"]:
        if row["could_change"] == "yes":
            yield f"`{row['variant']}`"


def _moved(study: StudyEntry, measure: str) -> Iterator[str]:
    # Decided means that the interval over seeds leaves zero out.
    for row in study["rows"]:
        effect = _effect(row, measure)
        if effect is not None and not effect["undecided"]:
            yield _choice(row, effect)


def _harder(study: StudyEntry) -> Iterator[str]:
    for row in study["interactions"]:
        if not row["effect"]["undecided"]:
            yield _choice(row, row["effect"])


def _not_cleaned(study: StudyEntry) -> Iterator[str]:
    for row in study["rows"]:
        if row["not_cleaned"]:
            yield f"`{row['variant']}` ({model_name(row)}: {not_cleaned(row)})"


def _choice(row: Mapping[str, Any], effect: Effect) -> str:
    return f"`{row['variant']}` ({model_name(row)}: {effect_text(effect)})"


def _effect(row: EffectRow, measure: str) -> Effect | None:
    return row["effects"][measure] if row["effects"] else None
