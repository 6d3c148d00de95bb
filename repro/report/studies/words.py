"""Rows of a study in words: which model, what an effect is, and on how many seeds nothing was
cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro.intervals import Interval
from repro.report.format import label, markdown_percent
from repro.report.schema.base import Effect

NO_CHANGE = (0.0, 0.0)
"""Interval of an effect that is nought on every seed."""


def model_name(row: Mapping[str, Any]) -> str:
    """Dataset, cleaning size and objective of a row, as far as it names them."""
    # A start model has no cleaning size, a comparison of objectives no objective.
    keys = [row["dataset"], row.get("clean_size"), row.get("pretrain_objective")]
    return ", ".join(label(key) for key in keys if key)


def not_cleaned(row: Mapping[str, Any], measure: str = "cleaned_accuracy") -> str:
    """On how many seeds no learning rate took the model to the cap.

    Empty where it was cleaned on every seed, and for a measure that every seed has.
    """
    if measure != "cleaned_accuracy" or not row["not_cleaned"]:
        return ""
    return f"none on {row['not_cleaned']} of {row['tried']} seeds"


def effect_text(effect: Effect | None) -> str:
    """An effect in percentage points with its interval; `u` marks one that is undecided."""
    if effect is None:
        return "-"
    interval = effect["ci"]
    if is_nought(effect):
        return "none"

    text = ("+" if effect["value"] > 0 else "") + markdown_percent(effect["value"])

    # One seed has no interval; such an effect is undecided.
    return with_interval(text, interval) + (" u" if effect["undecided"] else "")


def with_interval(text: str, interval: Interval | None) -> str:
    """A number, and its interval where it has one."""
    if interval is None:
        return text
    low, high = map(markdown_percent, interval)
    return f"{text} [{low}, {high}]"


def outcome_text(row: Mapping[str, Any], measure: str, reference: str) -> str:
    """A measure of a row: the mean of the reference, the effect of every other variant.

    Seeds on which nothing was cleaned are in neither, and are told.
    """
    if row["variant"] == reference:
        found = markdown_percent(row["means"][measure])
    else:
        found = effect_text(row["effects"][measure] if row["effects"] else None)

    # Where no seed has a value, what is to be told takes its place.
    told = not_cleaned(row, measure)
    return "; ".join(text for text in (found, told) if text and not (told and text == "-"))


def matched_words(entry: Mapping[str, Any]) -> str:
    """What a comparison at equal accuracy before cleaning says of the objective."""
    effect = entry["asr_left"]
    if effect["undecided"]:
        return "it stays open whether the objective or the accuracy is what counts"
    if effect["value"] > 0:
        return "it is not only that models of MMCL + SSL are better ones: the objective counts"
    return "models of MMCL + SSL resist no more than MMCL models that are as good"


def is_nought(effect: Effect) -> bool:
    """Whether there was not the least difference on any seed."""
    interval = effect["ci"]
    return interval is not None and tuple(interval) == NO_CHANGE
