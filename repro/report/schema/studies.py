"""Studies in report.json: effects of variants, doses; and equal runs on several machines."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.report.schema.base import Effect, closed
from repro.report.schema.judged import CellEvidence, Verdict
from repro.spec import CleanSize, Dataset, Objective

Answer = Literal["yes", "no", "undecided"]
BySeedValues = dict[str, list[float | None]]
"""Measure to values, one a seed; null where it was not run, or where nothing was cleaned."""


@closed
class StudyVariant(TypedDict):
    """A way in which the study varies the profile."""

    variant: str
    changed: dict[str, str]
    """Dotted path to value."""
    poisoned: bool
    why: str


@closed
class VerdictPair(TypedDict):
    """A claim judged on the reference and on a variant."""

    id: str
    reference: Verdict
    variant: Verdict
    changes: bool
    """Whether a decided verdict becomes another one, by a decided effect."""


@closed
class StudyCell(TypedDict):
    """Which variant and model, and with how many pairs it was cleaned."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    """Null where the study does not clean."""


@closed
class EffectRow(StudyCell):
    """A variant's outcomes and their differences from the reference."""

    seeds: list[int]
    values: BySeedValues
    means: dict[str, float | None]
    """Over the seeds that have a value."""
    tried: int
    """Seeds on which the model was cleaned, with or without success."""
    not_cleaned: int
    """Of these, the ones on which no evaluation met the cap: they are in no mean and no effect of
    the best accuracy.
    """
    effects: dict[str, Effect | None] | None
    """By measure; null for the reference and where no seed is common."""
    verdicts: list[VerdictPair]
    could_change: Answer | None
    """Whether the variant turns a verdict; null where there is none to turn."""


@closed
class InteractionRow(TypedDict):
    """How much more a variant changes MMCL + SSL models than MMCL models."""

    variant: str
    dataset: Dataset
    clean_size: CleanSize | None
    effect: Effect


@closed
class SizeRow(TypedDict):
    """What the larger cleaning set does to the best accuracy at the cap."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    seeds: list[int]
    effect: Effect | None
    against_reference: Effect | None
    looks_worse: Answer | None


@closed
class RepeatedClaim(TypedDict):
    """Verdict on a claim over the seeds of a study that cleans every cell of Table 1."""

    id: str
    verdict: Verdict
    evidence: list[CellEvidence]


@closed
class StudyEntry(TypedDict):
    """One study."""

    name: str
    question: str
    reference: str
    variants: list[StudyVariant]
    rows: list[EffectRow]
    sizes: list[SizeRow]
    interactions: list[InteractionRow]
    claims: list[RepeatedClaim]
    """None unless the study cleans every cell of Table 1 by CleanCLIP."""
    code: list[str]
    commits: list[str]
    machines: list[str]
    runs: list[str]


@closed
class DosePoint(TypedDict):
    """Outcomes at one value of the number."""

    number: float
    mean: float | None
    values: list[float | None]
    not_cleaned: int
    """Seeds without a best accuracy, as no evaluation met the cap; 0 for other measures."""


@closed
class DoseCurve(TypedDict):
    """The curve of one model and cleaning size."""

    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    points: list[DosePoint]


@closed
class DoseEntry(TypedDict):
    """A measure over a number that several variants of a study set."""

    study: str
    path: str
    """Dotted path of the number."""
    measure: str
    curves: list[DoseCurve]


@closed
class MachineValues(TypedDict):
    """What one kind of machine gave."""

    machine: str
    values: BySeedValues


@closed
class MachineRow(TypedDict):
    """One model trained and cleaned on several machines, from equal data, code and seeds."""

    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    seeds: list[int]
    machines: list[MachineValues]
    difference: dict[str, float | None]
    """By measure: the largest between machines at one seed."""
    spread: dict[str, float | None]
    """By measure: standard deviation over seeds on one machine (root of the mean variance)."""
