"""What was done at which scale in report.json: settings, and the ladder of scales."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.report.schema.base import Effect, closed
from repro.report.schema.judged import HeadlineClaim, Verdict
from repro.spec import CleanSize, Objective


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


@closed
class CleaningShare(TypedDict):
    """A cleaning set as a fraction of the pairs of cc6m."""

    clean_size: CleanSize
    share: float


@closed
class LadderStart(TypedDict):
    """A poisoned model of cc6m before cleaning, means over seeds."""

    pretrain_objective: Objective
    accuracy: float
    asr: float


@closed
class LadderControl(TypedDict):
    """CleanCLIP on the poisoned MMCL model of cc6m, means over seeds; nulls where not run."""

    clean_size: CleanSize
    holds: bool | None
    loss: float | None
    """Share of the start accuracy lost at the cap; a seed that no rate cleaned counts as 1."""
    asr: float | None
    """Of the best evaluation at the cap, the lowest of a seed that no rate cleaned; null where the
    paper says no more than that it is at most the cap.
    """


@closed
class LadderResistance(TypedDict):
    """Accuracy that the MMCL model of cc6m keeps more than the MMCL + SSL model does."""

    clean_size: CleanSize
    area: Effect
    """As of `TradeOff`."""


@closed
class LadderRow(TypedDict):
    """A scale: what it has of the paper's, and what came out; lists are empty without results."""

    scale: str
    """The profile."""
    source: Literal["report", "study", "printed"] | None
    """Whose results: this report's, the study's of the scale, or the paper's own; null if none."""
    seeds: list[int]
    stand_in: str
    asr_cap: float
    pairs: int
    """Of cc6m."""
    poisoned: float
    """Fraction of these pairs."""
    patch: float | None
    """Fraction of the image; null for a trigger without a patch."""
    cleaning: list[CleaningShare]
    starts: list[LadderStart]
    controls: list[LadderControl]
    verdict: Verdict | None
    """Of the main claims together; null for the paper, whose claims they are."""
    claims: list[HeadlineClaim]
    resistance: list[LadderResistance]
