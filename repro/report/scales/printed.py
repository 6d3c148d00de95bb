"""Settings and scales in words, the same on the page, in the PDF and in README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.format import percent, rate

LISTED_RATES = 5
"""Learning rates that are listed; of more the ends and the number are told."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """A row of the settings table."""

    setting: str
    paper: str
    here: str
    source: str


def setting_lines(document: Mapping[str, Any]) -> list[SettingLine]:
    """The settings table, a line a setting."""
    return [
        SettingLine(
            row["setting"], setting_words(row["paper"]), setting_words(row["here"]), row["source"]
        )
        for row in document["settings_table"]
    ]


def setting_words(values: Sequence[Mapping[str, Any]]) -> str:
    """The values of a setting, each after what has it."""
    return "; ".join(
        f"{' and '.join(entry['of'])}: {_value(entry['value'])}"
        if entry["of"]
        else _value(entry["value"])
        for entry in values
    )


def share_words(fraction: float) -> str:
    """A fraction in percent with one decimal; with two digits where it is less than 1%."""
    # The paper's share of poisoned pairs, 0.05%, would be 0.1% with one decimal.
    return f"{100 * fraction:.2g}" if 0 < fraction < 0.01 else percent(fraction, digits=1)


def _value(value: str | float | Sequence[float]) -> str:
    match value:
        case str():
            return value
        case int():
            return f"{value:,}"
        case float():
            return share_words(value)
    if len(value) <= LISTED_RATES:
        return ", ".join(map(rate, value))
    return f"{len(value)} from {rate(value[0])} to {rate(value[-1])}"
