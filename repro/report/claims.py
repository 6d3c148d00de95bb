"""specs/claims.yaml: the paper's numbers and claims, and the rules of verdicts over seeds."""

import math
import operator
from collections.abc import Callable, Iterable
from datetime import date
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from repro.intervals import Interval
from repro.profile import SPECS, check, read_yaml
from repro.spec import (
    CleanSize,
    Dataset,
    Fraction,
    Loss,
    Name,
    NonEmpty,
    Objective,
    Rate,
    Spec,
)

CLAIMS = SPECS / "claims.yaml"
Metric = Literal[
    "start_accuracy",
    "start_asr",
    "accuracy_gain",
    "relative_drop",
    "drop_difference",
    "asr_left_difference",
    "kept_asr",
    "lowest_asr",
    "late_drop",
    "late_asr",
]
"""Quantity of a claim; computed in repro/report/statements.py."""
ABOUT_BOTH: tuple[Metric, ...] = ("accuracy_gain", "drop_difference", "asr_left_difference")
"""Metrics that compare the two objectives."""
ABOUT_START: tuple[Metric, ...] = ("start_accuracy", "start_asr", "accuracy_gain")
"""Metrics of models before cleaning."""


class Cleaned(Spec):
    """A cell of Table 1, fractions."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    original_accuracy: Fraction
    clean_accuracy: Fraction | None
    """None where the paper prints a dash."""


class Started(Spec):
    """A cell of Table 2, fractions."""

    dataset: Dataset
    pretrain_objective: Objective
    accuracy: Fraction
    asr: Fraction


class Paper(Spec):
    """The paper's numbers."""

    title: str
    reference: str
    url: str
    version: str
    """Which text is quoted, where the address leads to another one."""
    communication: str | None
    """What was asked of its authors and answered; None where there is nothing to tell."""
    table1_printed: list[Cleaned]
    """As the paper lays them out."""
    table1: list[Cleaned]
    """As they belong, by text, Table 2 and the authors' points (errata 1 to 3)."""
    table2: list[Started]

    def cleaned(self, dataset: Dataset, size: CleanSize, objective: Objective) -> Cleaned:
        """The corrected cell of Table 1."""
        place = (dataset, size, objective)
        [cell] = (
            of for of in self.table1 if (of.dataset, of.clean_size, of.pretrain_objective) == place
        )
        return cell

    def start(self, dataset: Dataset, objective: Objective) -> Started:
        """The cell of Table 2."""
        place = (dataset, objective)
        [cell] = (of for of in self.table2 if (of.dataset, of.pretrain_objective) == place)
        return cell


class Term(Spec):
    """A number in an erratum: its name, its value and where it is from."""

    name: str
    value: FiniteFloat
    source: str


OPERATIONS: dict[str, Callable[..., float | None]] = {
    # Terms are start and end, as in Table 1.
    "relative_drop": lambda start, end: 1 - end / start,
    "difference": operator.sub,
    "ratio": operator.truediv,
    "product": operator.mul,
    "sum": lambda *terms: sum(terms),
    "none": lambda: None,
}


class Erratum(Spec):
    """An inconsistency of the paper, with the arithmetic that shows it."""

    id: int
    bears_on: Literal["claim", "number", "wording"]
    """On the paper's claim, on a number or a setting of it, or on its wording alone."""
    place: str
    says: str
    finding: str
    operation: Literal["relative_drop", "difference", "ratio", "product", "sum", "none"]
    terms: list[Term]
    """As many as the operation takes: two, any number of a sum, and none of "none"."""

    @property
    def result(self) -> float | None:
        """Value of the operation on the terms, computed so that no erratum claims another."""
        return OPERATIONS[self.operation](*(term.value for term in self.terms))


class Bound(Spec):
    """Exactly one of: at least, at most, or about a value."""

    at_least: FiniteFloat = -math.inf
    at_most: FiniteFloat = math.inf
    about: FiniteFloat | None = None
    margin: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Half-width of the band that counts as equal; only with `about`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set - {"margin"}) != 1:
            raise ValueError("give exactly one of at_least, at_most and about")
        # A band of no width could not hold an interval, so nothing would ever be reproduced.
        if (self.about is None) != (self.margin == 0):
            raise ValueError("margin belongs to about, and about needs a positive margin")
        return self

    @property
    def band(self) -> Interval:
        """The values that satisfy it."""
        if self.about is None:
            return self.at_least, self.at_most
        return self.about - self.margin, self.about + self.margin

    @property
    def words(self) -> str:
        """The bound in percent."""
        if self.about is not None:
            return f"{100 * self.about:g}% within {100 * self.margin:g} points"
        if self.at_most == math.inf:
            return f"at least {100 * self.at_least:g}%"
        return f"at most {100 * self.at_most:g}%"


class Claim(Spec):
    """One statement of the paper and how it is tested."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    quote: str
    place: str
    metric: Metric
    datasets: NonEmpty[Dataset]
    clean_sizes: list[CleanSize]
    objectives: NonEmpty[Objective]
    loss: Loss | None
    """The finetuning loss; None for start models."""
    study: Annotated[str, Field(pattern=r"^\w+/\w+$")] | None = None
    """Whose runs decide: `<study>/<variant>` of specs/studies; None for those of the profile."""
    expect: Bound
    """What supports the claim."""
    direction: Bound | None
    """The weaker statement that keeps the claim's direction; outside it the claim is refuted."""
    absolute: bool
    """True if the value belongs to ImageNet and Conceptual Captions: substitute data can then show
    the direction only.
    """
    reason: str
    """Why this margin."""
    refuted_by: str
    fixed: str | None = None
    """When it was fixed; None for `claims_fixed` of the file."""

    @model_validator(mode="after")
    def _testable(self) -> Self:
        if self.metric not in ABOUT_START and not (self.clean_sizes and self.loss):
            raise ValueError("clean_sizes and loss: a claim about cleaning names them")
        return self


class MeasureRule(Spec):
    """How a difference of MMCL + SSL less MMCL is judged; fractions, logits or doublings."""

    expect: Literal["above"]
    negligible: Annotated[FiniteFloat, Field(gt=0)]
    """The smallest difference that counts: refuted is what is surely below it."""
    paper: dict[Dataset, FiniteFloat] | None
    """The paper's difference by dataset; None where its numbers do not give it."""
    speaks: Literal["for", "against"] = "for"
    """Whether a difference above zero speaks for the paper or against its advice."""
    fixed: date
    """When the measure was written down; in a verdict on earlier runs it is exploratory."""


class SecondaryRule(Spec):
    """A comparison that was fixed beforehand and stands apart from the claims."""

    study: str
    variant: str
    twins: list[str] = Field(default_factory=list)
    """Never-poisoned models for its positive control, as `<study>/<variant>`."""
    why: str


class Rules(Spec):
    """How claims about the two objectives are judged over seeds; docs/method.md."""

    fixed: date
    """Before any run of `seeds`."""
    seeds: dict[str, list[int]]
    level: Fraction
    cleaned_share: Fraction
    twin_margin: Fraction
    weak_start: Fraction
    rate: dict[str, FiniteFloat]
    hull_cap: Fraction
    cells: list[Annotated[tuple[Dataset, CleanSize], Field(strict=False)]]
    comparators: list[str]
    measures: dict[str, MeasureRule]
    secondary: dict[str, SecondaryRule]


class Arms(Spec):
    """Where the models of a comparison stand, as `<study>/<variant>`."""

    mmcl_ssl: str
    mmcl: Annotated[dict[str, str], Field(min_length=1)]
    """MMCL models by comparator, the main one first."""
    twins: list[str] = Field(default_factory=list)
    """Models that were never poisoned."""

    @property
    def study(self) -> str:
        """Study of the MMCL + SSL models."""
        return self.mmcl_ssl.split("/")[0]

    @property
    def first_mmcl(self) -> str:
        """The MMCL models of the main comparator."""
        return next(iter(self.mmcl.values()))


class Condition(Spec):
    """A line of the table of conditions: which models are compared, and what is said of it."""

    name: Name
    says: str
    mmcl: str
    """Arm of the MMCL models, as `<study>/<variant>`; `<study>/*` stands for all variants, which
    then have seeds of their own.
    """
    mmcl_ssl: str
    """Arm of the MMCL + SSL models, likewise."""
    settings: list[Annotated[tuple[Dataset, CleanSize], Field(strict=False)]] = Field(
        default_factory=list
    )
    """The difference is the mean over them; those of the rules where none is named."""
    rate: Rate | None = None
    """Learning rate of the ASR left; null for that of the rules."""
    exploratory: bool = False
    """Whether it was looked for after its data were seen."""
    defence: bool = False
    """Whether it is there to compare defences, and so none of CleanCLIP's own."""
    short: bool = False
    """Whether README.md shows it too."""

    @staticmethod
    def arms(arm: str, known: Iterable[str]) -> list[str]:
        """The arms that a name stands for, of those that are `known`."""
        return [of for of in known if fnmatchcase(of, arm)]


class Comparisons(Spec):
    """Which archived runs the verdicts rest on, by profile."""

    exploratory: dict[str, Arms]
    confirmed: dict[str, Arms]
    beside: dict[str, dict[str, str]]
    """By profile and name, an arm whose two objectives are compared; exploratory."""
    elsewhere: dict[str, dict[str, str]]
    """By profile and study, an arm as in `beside`."""
    conditions: dict[str, list[Condition]]
    """By profile: lines of the table of conditions."""


class Claims(Spec):
    """specs/claims.yaml."""

    rules: Rules
    comparisons: Comparisons
    kept_share: Fraction
    """Share of the start accuracy that counts as kept, in `kept_asr`."""
    paper: Paper
    claims_fixed: str
    """When the claims were fixed that do not say it themselves."""
    claims: list[Claim]
    errata: list[Erratum]

    @model_validator(mode="after")
    def _compared(self) -> Self:
        for profile, arms in self.comparisons.confirmed.items():
            if [*arms.mmcl] != self.rules.comparators:
                raise ValueError(
                    f"comparisons: confirmed: {profile}: mmcl: has {', '.join(arms.mmcl)}; allowed "
                    f"is what rules: comparators has, {', '.join(self.rules.comparators)}"
                )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"claims: id {repeated[0]!r} is used twice")
        return self


def load_claims() -> Claims:
    """Read and check the claims file; SpecError lists every problem with its field and value."""
    return check(Claims, read_yaml(CLAIMS), CLAIMS)
