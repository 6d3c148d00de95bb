"""Studies in report.json: effects of variants, measures over numbers, equal runs on machines."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.intervals import Interval
from repro.report.schema.base import Effect, closed
from repro.report.schema.judged import CellEvidence, Verdict
from repro.spec import CleanSize, Dataset, Objective

Answer = Literal["yes", "no", "undecided"]
ResponseMeasure = Literal["accuracy", "asr", "asr_left", "lost"]
"""Before cleaning: accuracy and ASR; after it: ASR at the end of runs with one learning rate, and
the share of the accuracy that is lost to reach the cap, 1 where nothing reaches it.
"""
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
class BySeed(TypedDict):
    """A measure of one variant and model over its seeds."""

    values: list[float | None]
    """One a seed; null where it was not run."""
    mean: float
    """Over the seeds that have a value."""
    ci: Interval | None
    """Student's; null for one seed."""


@closed
class ResponsePoint(TypedDict):
    """One model at one value of the number."""

    variant: str
    number: float
    seeds: list[int]
    measures: dict[ResponseMeasure, BySeed]
    """Those that some seed has."""


@closed
class ResponseCurve(TypedDict):
    """The models of one objective, by rising number."""

    pretrain_objective: Objective
    points: list[ResponsePoint]


@closed
class EffectAt(TypedDict):
    """An effect at one value of the number, paired over seeds."""

    number: float
    effect: Effect


@closed
class ResponseEntry(TypedDict):
    """What a study measured over a number in which its variants differ, in one cell."""

    study: str
    axis: str
    """Name of the number."""
    dataset: Dataset
    clean_size: CleanSize | None
    """Null where the study does not clean."""
    learning_rate: float | None
    """Of the runs whose end is `asr_left`; null where none of them cleans the MMCL model."""
    curves: list[ResponseCurve]
    tested: ResponseMeasure
    """The measure of `changes` and `gaps`: the ASR left, else the ASR before cleaning."""
    changes: dict[Objective, list[EffectAt]]
    """At every number but the lowest: less what is measured at the lowest."""
    gaps: list[EffectAt]
    """MMCL + SSL less MMCL, at the lowest number and at the highest, where both were run."""


@closed
class MatchedModel(TypedDict):
    """One of two models of a seed whose accuracies before cleaning are as equal as the study has
    them.
    """

    variant: str
    accuracy: float
    asr_left: float
    lost: float


@closed
class MatchedSeed(TypedDict):
    """The MMCL + SSL model of a study's reference, and the MMCL model that comes closest to it."""

    seed: int
    mmcl: MatchedModel
    mmcl_ssl: MatchedModel


@closed
class EqualStarts(TypedDict):
    """Resistance at equal accuracy before cleaning; effects are MMCL + SSL less MMCL over seeds."""

    study: str
    dataset: Dataset
    clean_size: CleanSize
    learning_rate: float
    seeds: list[MatchedSeed]
    accuracy: Effect
    """What is left of the difference before cleaning."""
    asr_left: Effect
    lost: Effect


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
