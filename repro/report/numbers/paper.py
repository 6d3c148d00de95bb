"""The paper's printed numbers and its inconsistencies, as the claims file has them."""

from __future__ import annotations

from typing import Annotated, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from repro.spec import CleanSize, Dataset, Fraction, Objective


class ClaimsEntry(BaseModel):
    """Base of the file's entries: immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


@final
class Cleaned(ClaimsEntry):
    """A cell of Table 1, fractions."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    original_accuracy: Fraction
    clean_accuracy: Fraction | None
    """None where the paper prints a dash."""


@final
class Started(ClaimsEntry):
    """A cell of Table 2, fractions."""

    dataset: Dataset
    pretrain_objective: Objective
    accuracy: Fraction
    asr: Fraction


class Paper(ClaimsEntry):
    """The paper's numbers."""

    title: str
    reference: str
    url: str
    doi: str
    version: str
    """Which text is quoted, where the address leads to another one."""
    communication: Annotated[str, Field(min_length=1)] | None
    """What was asked of its authors and answered; None where there is nothing to tell."""
    table1_printed: list[Cleaned]
    """As the paper lays them out."""
    table1: list[Cleaned]
    """As they belong, by text, Table 2 and the authors' points (errata 1 to 3)."""
    table2: list[Started]

    def cleaned(self, dataset: Dataset, size: CleanSize, objective: Objective) -> Cleaned | None:
        """The corrected cell of Table 1; None where the paper has none."""
        wanted = (dataset, size, objective)
        for cell in self.table1:
            if (cell.dataset, cell.clean_size, cell.pretrain_objective) == wanted:
                return cell
        return None

    def start(self, dataset: Dataset, objective: Objective) -> Started | None:
        """The cell of Table 2; None where the paper has none."""
        for cell in self.table2:
            if (cell.dataset, cell.pretrain_objective) == (dataset, objective):
                return cell
        return None


class Term(ClaimsEntry):
    """A number in an erratum: its name, its value and where it is from."""

    name: str
    value: FiniteFloat
    source: str


class Erratum(ClaimsEntry):
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
        # A sum takes as many terms as there are; all other operations take two.
        allowed = {"none": 0, "sum": len(self.terms)}.get(self.operation, 2)
        if len(self.terms) != allowed:
            raise ValueError(f"terms: {len(self.terms)} (allowed: {allowed} for {self.operation})")
        return self

    @property
    def result(self) -> float | None:
        """Value of the operation on the terms, computed so that no erratum claims another."""
        values = [term.value for term in self.terms]
        match self.operation:
            # Terms are start and end, as in Table 1.
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
