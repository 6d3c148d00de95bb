"""The paper's numbers, its claims and their verdicts in report.json."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.intervals import Interval
from repro.report.schema.base import CellKeys, Spread, closed
from repro.report.schema.results import PositiveControl
from repro.spec import CleanSize, Dataset, Loss, Objective

Untested = Literal[
    "not tested: control failed",
    "not tested: control not run",
    "not tested: accuracy not kept",
    "not tested: best evaluation is the last",
]
"""Verdicts where the runs are there, but could not have spoken against the claim."""
Verdict = Literal[
    "reproduced", "direction only", "not reproduced", "undecided", "not run", Untested
]
Metric = Literal[
    "start_accuracy",
    "start_asr",
    "accuracy_gain",
    "cleaned_accuracy",
    "relative_drop",
    "drop_difference",
    "kept_asr",
    "lowest_asr",
    "late_drop",
    "late_asr",
    "asr_left_difference",
    "lowest_rate_ratio",
    "kept_difference",
    "none",
]
"""What a claim is about; `none` for one that this study cannot test."""


@closed
class SeedEvidence(TypedDict):
    """A claim looked at in one cell and seed."""

    seed: int | None
    """Null for the authors' points, which do not say."""
    value: float
    ci: Interval | None
    """Over the evaluation images; null where the value has none, as a learning rate."""
    runs: list[str]
    note: str
    verdict: Verdict


@closed
class CellEvidence(TypedDict):
    """A claim looked at in one cell."""

    dataset: Dataset
    clean_size: CleanSize | None
    """Null for claims about models before cleaning."""
    pretrain_objective: Objective | None
    """Null for claims that compare the two."""
    verdict: Verdict
    by_seed: list[SeedEvidence]
    spread: Spread | None
    ci: Interval | None
    """Over seeds, for claims of our own; null for one seed, and for the paper's, which are judged
    seed by seed.
    """
    control: PositiveControl | None
    """Of the cell, if the claim is judged only where it holds; null else, or where it was not
    run.
    """


@closed
class JudgedClaim(TypedDict):
    """A claim of specs/claims.yaml with its verdict."""

    id: str
    quote: str
    place: str
    metric: Metric
    datasets: list[Dataset]
    clean_sizes: list[CleanSize]
    objectives: list[Objective]
    loss: Loss | None
    study: str | None
    absolute: bool
    reason: str
    refuted_by: str
    expect: str | None
    """What would reproduce it, in words; null if it cannot be tested."""
    direction: str | None
    verdict: Verdict
    evidence: list[CellEvidence]
    authors_verdict: Verdict | None
    """By the authors' points; null where they are not at hand."""
    authors_evidence: list[CellEvidence]


@closed
class HeadlineClaim(TypedDict):
    """A main claim."""

    id: str
    dataset: Dataset
    clean_size: CleanSize
    verdict: Verdict | None


@closed
class Headline(TypedDict):
    """The paper's answer: its main claims, and what they say together."""

    verdict: Verdict
    claims: list[HeadlineClaim]
    runs: int
    """Runs of our own that the report counts."""
    diverged_runs: int
    """Of these, the ones whose loss was no finite number at some step."""


@closed
class PrintedCell(CellKeys):
    """A cell of the paper's Table 1."""

    original_accuracy: float
    clean_accuracy: float | None
    """Null where the paper prints a dash."""


@closed
class PaperTable1(TypedDict):
    """Table 1 of the paper."""

    printed: list[PrintedCell]
    corrected: list[PrintedCell]
    """As the values belong, by the errata."""


@closed
class PaperEntry(TypedDict):
    """The paper."""

    title: str
    reference: str
    url: str
    doi: str
    version: str
    """Which text is quoted, where the address leads to another one."""
    communication: str | None
    """What was asked of its authors and answered; null where there is nothing to tell."""
    table1: PaperTable1


@closed
class ErratumTerm(TypedDict):
    """A number in an erratum."""

    name: str
    value: float
    source: str


@closed
class ErratumResult(TypedDict):
    """An inconsistency of the paper, with the arithmetic that shows it."""

    id: int
    place: str
    says: str
    finding: str
    operation: Literal["relative_drop", "difference", "ratio", "product", "sum", "none"]
    terms: list[ErratumTerm]
    unit: Literal["fraction", "count", "percentage points"]
    result: float | None
