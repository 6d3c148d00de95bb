"""What was done at which scale in report.json: settings, and the ladder of scales."""

from __future__ import annotations

from typing_extensions import TypedDict

from repro.report.schema.base import closed


@closed
class SettingValue(TypedDict):
    """A value of a setting, and what has it."""

    of: list[str]
    """Datasets, cleaning sizes or objectives as printed; empty where all have it."""
    value: str | int | float | list[float]
    """Words, a count, a fraction, or learning rates."""


@closed
class SettingRow(TypedDict):
    """A setting of the paper and of this profile."""

    setting: str
    paper: list[SettingValue]
    here: list[SettingValue]
    source: str
    """Where the paper's value is from: its text, the authors' code, or an assumption."""
