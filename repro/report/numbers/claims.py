"""The paper as data (specs/claims.yaml): printed tables, claims with margins fixed beforehand, and errata.

A claim names a metric, the cells it is about, what would confirm it and what would merely show its direction. The
verdict follows from the interval of the measured quantity; it is never read off a point estimate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from repro.intervals import Interval
from repro.profile import SPECS, read_yaml
from repro.spec import CleanSize, Dataset, Fraction, Loss, Objective, SpecError

Verdict = Literal["reproduced", "direction only", "not reproduced", "undecided", "not run"]
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
    "none",
]
SEVERITY: tuple[Verdict, ...] = ("not reproduced", "undecided", "direction only", "reproduced")
"""Of several cells, the first verdict in this order is the claim's."""


class Entry(BaseModel):
    """Base of the file's entries: immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Cleaned(Entry):
    """A cell of Table 1, fractions."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    original_accuracy: Fraction
    clean_accuracy: Fraction | None
    """None where the paper prints a dash."""


class Started(Entry):
    """A cell of Table 2, fractions."""

    dataset: Dataset
    pretrain_objective: Objective
    accuracy: Fraction
    asr: Fraction


class Paper(Entry):
    """The paper's numbers."""

    title: str
    reference: str
    url: str
    table1_printed: list[Cleaned]
    """As the paper lays them out."""
    table1: list[Cleaned]
    """As they belong, by text, Table 2 and the authors' points (errata 1 to 3)."""
    table2: list[Started]

    def cleaned(self, dataset: Dataset, size: CleanSize, objective: Objective) -> Cleaned | None:
        """The corrected cell of Table 1; None where the paper has none."""
        return next(
            (
                c
                for c in self.table1
                if (c.dataset, c.clean_size, c.pretrain_objective) == (dataset, size, objective)
            ),
            None,
        )

    def start(self, dataset: Dataset, objective: Objective) -> Started | None:
        """The cell of Table 2."""
        return next(
            (c for c in self.table2 if (c.dataset, c.pretrain_objective) == (dataset, objective)),
            None,
        )


class Bound(Entry):
    """Exactly one of: at least, at most, or about a value."""

    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    about: FiniteFloat | None = None
    margin: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Half-width of the band that counts as equal; only with `about`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(v is not None for v in (self.at_least, self.at_most, self.about)) != 1:
            raise ValueError("give exactly one of at_least, at_most and about")
        if (self.about is None) != (self.margin == 0):
            raise ValueError("margin belongs to about, and about needs a positive margin")
        return self

    @property
    def band(self) -> Interval:
        """The values that satisfy it."""
        if self.about is not None:
            return self.about - self.margin, self.about + self.margin
        return (
            (self.at_least, float("inf"))
            if self.at_least is not None
            else (float("-inf"), self.at_most or 0.0)
        )


class Claim(Entry):
    """One statement of the paper and how it is tested."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    quote: str = Field(min_length=1)
    place: str = Field(min_length=1)
    metric: Metric
    datasets: list[Dataset]
    clean_sizes: list[CleanSize]
    objectives: list[Objective]
    loss: Loss | None
    """The finetuning loss; None for start models."""
    study: Annotated[str, Field(pattern=r"^\w+/\w+$")] | None = None
    """Whose runs decide: `<study>/<variant>` of specs/studies; None for those of the main graph."""
    expect: Bound | None
    """What reproduces the claim; None if this study cannot test it."""
    direction: Bound | None
    """The weaker statement that keeps the claim's direction."""
    absolute: bool
    """True if the value belongs to ImageNet and Conceptual Captions: stand-in data can then show the direction only."""
    reason: str
    """Why this margin, or why it cannot be tested."""
    refuted_by: str = Field(min_length=1)

    @model_validator(mode="after")
    def _testable(self) -> Self:
        if (self.metric == "none") != (self.expect is None):
            raise ValueError("metric: none goes with expect: null, and only with it")
        if self.metric != "none" and not (self.datasets and self.objectives):
            raise ValueError("datasets and objectives: a testable claim names at least one of each")
        if self.metric not in ("none", "start_accuracy", "start_asr", "accuracy_gain") and not (
            self.clean_sizes and self.loss
        ):
            raise ValueError("clean_sizes and loss: a claim about cleaning names them")
        return self


class Term(Entry):
    """A number in an erratum: its name, its value and where it is from."""

    name: str
    value: FiniteFloat
    source: str


class Erratum(Entry):
    """An inconsistency of the paper, with the arithmetic that shows it."""

    id: Annotated[int, Field(ge=1)]
    place: str
    says: str
    finding: str
    operation: Literal["relative_drop", "difference", "ratio", "product", "sum", "none"]
    terms: list[Term]
    unit: Literal["fraction", "count", "percentage points"]

    @model_validator(mode="after")
    def _computable(self) -> Self:
        needed = {"none": 0, "sum": len(self.terms)}.get(self.operation, 2)
        if len(self.terms) != needed:
            raise ValueError(f"terms: {len(self.terms)} (allowed: {needed} for {self.operation})")
        return self

    @property
    def result(self) -> float | None:
        """Value of the operation on the terms."""
        values = [term.value for term in self.terms]
        match self.operation:
            case "relative_drop":
                return 1 - values[1] / values[0]
            case "difference":
                return values[0] - values[1]
            case "ratio":
                return values[0] / values[1]
            case "product":
                return values[0] * values[1]
            case "sum":
                return sum(values)
        return None


class Claims(Entry):
    """specs/claims.yaml."""

    attack_taken: Fraction
    """A model counts as poisoned if its start ASR is at least this; otherwise cleaning shows nothing."""
    kept_share: Fraction
    """Share of the start accuracy that counts as kept in `kept_asr`."""
    paper: Paper
    main_claims: list[str]
    """Claims that together are the paper's answer, by id."""
    claims: list[Claim]
    errata: list[Erratum]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"claims: id {repeated[0]!r} is used twice")
        if unknown := sorted(set(self.main_claims) - set(ids)):
            raise ValueError(f"main_claims: {unknown[0]!r} is no claim")
        return self


def load_claims(path: Path = SPECS / "claims.yaml") -> Claims:
    """Read and check the claims file; SpecError lists every problem with its field and value."""
    try:
        return Claims.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}"
            + ("" if e["type"] == "missing" else f" (got {str(e['input'])[:80]!r})")
            for e in error.errors()
        ]
        raise SpecError("\n".join([f"{path}: {len(lines)} problem(s)", *lines])) from None


def judge(expect: Bound, direction: Bound | None, interval: Interval, capped: bool) -> Verdict:
    """Verdict on an interval: inside the expected band, at least in the direction, outside, or not decided.

    `capped`: an absolute value on stand-in data, where agreement shows the direction at most.
    """
    if _inside(interval, expect.band):
        return "direction only" if capped else "reproduced"
    if direction is not None and _inside(interval, direction.band):
        return "direction only"
    weakest = (direction or expect).band
    return "not reproduced" if interval[1] < weakest[0] or interval[0] > weakest[1] else "undecided"


def combine(verdicts: list[Verdict]) -> Verdict:
    """Of a claim that has to hold in every cell: one cell refutes it, and a cell not run leaves it undecided."""
    if all(verdict == "not run" for verdict in verdicts):
        return "not run"
    return next(
        verdict
        for verdict in SEVERITY
        if verdict in ["undecided" if v == "not run" else v for v in verdicts]
    )


def agree(verdicts: list[Verdict]) -> Verdict:
    """Of one cell over seeds: what all seeds say, else undecided."""
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided" if verdicts else "not run"


def paper_values(claims: Claims) -> dict[str, Any]:
    """The printed and the corrected Table 1 for the report."""
    return {
        "printed": [cell.model_dump() for cell in claims.paper.table1_printed],
        "corrected": [cell.model_dump() for cell in claims.paper.table1],
    }


def _inside(interval: Interval, band: Interval) -> bool:
    return band[0] <= interval[0] and interval[1] <= band[1]
