"""What all parts of report.json have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from repro.intervals import Interval
from repro.spec import CleanSize, Dataset, Objective

closed = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
"""Makes a TypedDict refuse unknown fields and describe its own in the JSON Schema."""

Source = Literal["ledger", "authors"]
"""Whose evaluations: ours, or those that the authors published."""
Denominator = Literal["all", "non_target"]
"""Images that an ASR is a share of: all, or those of another class than the target."""


@closed
class CellKeys(TypedDict):
    """The place of a number in Table 1."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective


@closed
class ModelKeys(TypedDict):
    """Which pre-trained model."""

    dataset: Dataset
    pretrain_objective: Objective


@closed
class Spread(TypedDict):
    """Between seeds."""

    seeds: int
    """Number of values."""
    mean: float
    """Of ratios the geometric one."""
    sd: float | None
    """Sample standard deviation, of ratios as a factor; null for one seed."""
    min: float
    max: float


@closed
class Effect(TypedDict):
    """Mean difference over seeds."""

    value: float
    ci: Interval | None
    """Student's; null for one seed."""
    n: int
    """Seeds."""
    undecided: bool
    """Whether the interval holds zero, or is not there."""
