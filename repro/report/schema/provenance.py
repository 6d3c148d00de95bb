"""Where the numbers of report.json come from: runs, their cost, files, and what the report tells
besides results.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from repro.report.schema.base import closed


@closed
class RunProvenance(TypedDict):
    """A run that the report counts."""

    sha256: str
    """Over the hashes of its files."""
    status: Literal["completed", "diverged", "failed"]
    reason: str
    diverged: bool
    """Whether its loss was no finite number at some step."""
    fingerprint: str
    commit: str | None
    dirty: bool
    code: str
    inputs: dict[str, str]
    sacred: str | None
    seed: int
    started: str
    seconds: float
    attempts: int


@closed
class MissingRun(TypedDict):
    """A run that the profile asks for and that is not counted."""

    stage: Literal["pretrain", "clean"]
    cell: str
    run: str
    reason: str


@closed
class AuthorsFile(TypedDict):
    """A file of the authors' points that was read."""

    name: str
    sha256: str
    points: int
    verified: bool
    """Whether it is the published file, byte for byte."""


@closed
class ComputeRow(TypedDict):
    """Cost of a stage and model."""

    stage: Literal["pretrain", "clean"]
    cell: str
    runs: int
    seconds: float
    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    samples: int
    peak_memory_bytes: int
    attempts: int


@closed
class ArchivedCompute(TypedDict):
    """Cost of the studies that the report quotes: other runs, often of other machines."""

    runs: int
    """Each training once, though several studies share it; none of the profile's own."""
    seconds: float


@closed
class ForecastRow(TypedDict):
    """Time promised and taken, device-seconds."""

    stage: Literal["pretrain", "clean"]
    cell: str | None
    """Null for the sum of the stage."""
    runs: int
    forecast_seconds: float
    seconds: float
    ratio: float


@closed
class ForecastTable(TypedDict):
    """Forecast against measured."""

    calibrated_on: list[str]
    """Runs that gave the rates."""
    rows: list[ForecastRow]


@closed
class DocumentSources(TypedDict):
    """SHA-256 of what the document was computed from."""

    ledger: str
    claims: str


@closed
class DocumentSettings(TypedDict):
    """What decides how the ledger is read."""

    asr_cap: float
    confidence: float
    asr_denominator: Literal["all", "non_target"]
    seeds: list[int]
    attack_taken: float
    """A model counts as poisoned from this ASR on."""
    kept_share: float
    """Share of the start accuracy that counts as kept."""
    target_class: str


@closed
class SwitchRow(TypedDict):
    """A choice in which the paper's text and the authors' code differ."""

    switch: str
    meaning: str | None
    used: Any
    paper: Any
    authors: Any
    departs: bool
    """Whether the profile overrides its protocol here."""


@closed
class EnvironmentRow(TypedDict):
    """An environment, and how many runs were made in it."""

    runs: int
    environment: dict[str, Any]


class FaultTest(TypedDict):
    """Outcomes of one test, its parameters counted."""

    name: str
    passed: int
    failed: int
    skipped: int


class FaultCase(TypedDict):
    """One fault and what became of it."""

    case: int
    fault: str
    must: str
    outcome: Literal["passed", "failed", "skipped", "not run"]
    tests: list[FaultTest]


class Faults(TypedDict):
    """report/faults.json, written by the fault suite; what it tells besides is left out."""

    commit: str | None
    dirty: bool
    date: str
    python: str
    cases: list[FaultCase]


@closed
class ProjectEntry(TypedDict):
    """Who replicates the paper and where, as pyproject.toml says it."""

    authors: list[str]
    repository: str
    """Address; empty where none is named."""


@closed
class ReportContext(TypedDict):
    """What the report tells besides results; nothing here is needed to recompute a number."""

    project: ProjectEntry
    switches: list[SwitchRow]
    accounting: dict[str, dict[str, Any]]
    """Kept and left out, by step."""
    attribution: dict[str, Any] | None
    environments: list[EnvironmentRow]
    faults: Faults | None
