"""The paper's claims as data (specs/claims.yaml), with margins fixed beforehand.

A claim names a metric, the cells it is about, what would confirm it and what would merely show its
direction. The verdict follows from the interval of the measured quantity; it is never read off a
point estimate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from repro.intervals import Interval
from repro.profile import SPECS, read_yaml
from repro.report.numbers.cleaned import ControlRule
from repro.report.numbers.paper import ClaimsEntry, Erratum, Paper
from repro.report.schema.judged import Metric, Untested, Verdict
from repro.spec import CleanSize, Dataset, Fraction, Loss, Objective, SpecError

OVER_SEEDS: tuple[Metric, ...] = ("asr_left_difference", "lowest_rate_ratio", "kept_difference")
"""Metrics of our own, judged on the interval over seeds where there are several."""
RATIOS: tuple[Metric, ...] = ("lowest_rate_ratio",)
"""Metrics that are factors: averaged in their logarithms, and never shown in percent."""
ABOUT_BOTH: tuple[Metric, ...] = ("accuracy_gain", "drop_difference", *OVER_SEEDS)
"""Metrics that compare the two objectives, so that their cells have none of their own."""
ABOUT_START: tuple[Metric, ...] = ("start_accuracy", "start_asr", "accuracy_gain")
"""Metrics of models before cleaning."""
UNTESTED: tuple[Untested, ...] = get_args(Untested)
SEVERITY: tuple[Verdict, ...] = (
    "not reproduced",
    *UNTESTED,
    "undecided",
    "direction only",
    "reproduced",
)
"""Of several cells, the first verdict in this order is the claim's."""


class Bound(ClaimsEntry):
    """Exactly one of: at least, at most, or about a value."""

    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    about: FiniteFloat | None = None
    margin: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Half-width of the band that counts as equal; only with `about`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        # Two bounds would leave open which of them decides.
        if sum(v is not None for v in (self.at_least, self.at_most, self.about)) != 1:
            raise ValueError("give exactly one of at_least, at_most and about")

        # A band of no width could not hold an interval, so nothing would ever be reproduced.
        if (self.about is None) != (self.margin == 0):
            raise ValueError("margin belongs to about, and about needs a positive margin")
        return self

    @property
    def band(self) -> Interval:
        """The values that satisfy it."""
        if self.about is not None:
            return self.about - self.margin, self.about + self.margin
        if self.at_least is not None:
            return self.at_least, float("inf")
        return float("-inf"), self.at_most or 0.0


class Claim(ClaimsEntry):
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
    """True if the value belongs to ImageNet and Conceptual Captions: stand-in data can then show
    the direction only.
    """
    reason: str
    """Why this margin, or why it cannot be tested."""
    refuted_by: str = Field(min_length=1)

    @model_validator(mode="after")
    def _testable(self) -> Self:
        # A claim that this study cannot test still stands on the page, with its reason.
        if (self.metric == "none") != (self.expect is None):
            raise ValueError("metric: none goes with expect: null, and only with it")
        if self.metric == "none":
            return self

        # An empty list would give no cell, and so a claim that was never judged.
        if not (self.datasets and self.objectives):
            raise ValueError("datasets and objectives: a testable claim names at least one of each")

        # After cleaning, it matters with how many pairs and by which loss.
        if self.metric not in ABOUT_START and not (self.clean_sizes and self.loss):
            raise ValueError("clean_sizes and loss: a claim about cleaning names them")
        return self


class MeasureRule(ClaimsEntry):
    """How a difference of MMCL + SSL less MMCL is judged; fractions, logits or doublings."""

    expect: Literal["above"]
    negligible: Annotated[FiniteFloat, Field(gt=0)]
    """The smallest difference that counts: refuted is what is surely below it."""
    paper: FiniteFloat | None
    """The smallest difference of the paper; None where its numbers do not give it."""


class SecondaryRule(ClaimsEntry):
    """A comparison that was fixed beforehand and stands apart from the claims."""

    study: str
    variant: str
    why: str


class Rules(ClaimsEntry):
    """How claims about the two objectives are judged over seeds; docs/rules.md."""

    fixed: str
    seeds: dict[str, list[int]]
    level: Fraction
    cleaned_share: Fraction
    twin_margin: Fraction
    weak_start: Fraction
    rate: dict[str, FiniteFloat]
    hull_cap: Fraction
    cells: list[list[str]]
    comparators: list[str]
    measures: dict[str, MeasureRule]
    secondary: dict[str, SecondaryRule]


class Claims(ClaimsEntry):
    """specs/claims.yaml."""

    rules: Rules

    attack_taken: Fraction
    """A model counts as poisoned from this start ASR on; otherwise cleaning shows nothing."""
    kept_share: Fraction
    """Share of the start accuracy that counts as kept, in `kept_asr` and by the MMCL model of a
    positive control.
    """
    paper: Paper
    main_claims: list[str]
    """Claims that together are the paper's answer, by id."""
    claims: list[Claim]
    own_claims: list[Claim]
    """Ours, which the paper does not make."""
    errata: list[Erratum]

    @property
    def control_rule(self) -> ControlRule:
        """When a positive control holds."""
        return ControlRule(self.kept_share, self.attack_taken)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        # Verdicts are looked up by id, as by the pages of the studies.
        ids = [claim.id for claim in (*self.claims, *self.own_claims)]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"claims: id {repeated[0]!r} is used twice")
        if unknown := sorted(set(self.main_claims) - {claim.id for claim in self.claims}):
            raise ValueError(f"main_claims: {unknown[0]!r} is no claim")
        return self


def load_claims(path: Path = SPECS / "claims.yaml") -> Claims:
    """Read and check the claims file; SpecError lists every problem with its field and value."""
    try:
        return Claims.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # The place as dotted keys and list positions, such as claims.0.expect.at_least.
            field = ".".join(map(str, problem["loc"])) or "file"
            got = "" if problem["type"] == "missing" else f" (got {str(problem['input'])[:80]!r})"
            lines.append(f"  {field}: {problem['msg']}{got}")
        raise SpecError("\n".join([f"{path}: {len(lines)} problem(s)", *lines])) from None


def judge(expect: Bound, direction: Bound | None, interval: Interval, capped: bool) -> Verdict:
    """Verdict on an interval: inside the expected band, in the direction, outside, or undecided.

    `capped`: an absolute value on stand-in data, where agreement shows the direction at most.
    """
    # The whole interval must lie within the band, not the estimate alone.
    if _inside(interval, expect.band):
        return "direction only" if capped else "reproduced"
    if direction is not None and _inside(interval, direction.band):
        return "direction only"

    # Refuted only where the interval misses even the weaker statement; overlap decides nothing.
    low, high = (direction or expect).band
    outside = interval[1] < low or interval[0] > high
    return "not reproduced" if outside else "undecided"


def combine(verdicts: list[Verdict]) -> Verdict:
    """Of a claim about several cells: one refutes it, one that could not be tested leaves it
    untested, and one not run leaves it undecided.
    """
    # Of a claim without any cell this holds as well.
    if all(verdict == "not run" for verdict in verdicts):
        return "not run"

    # Some cells were run, others not: those others may still refute it.
    decided = ["undecided" if verdict == "not run" else verdict for verdict in verdicts]
    return min(decided, key=SEVERITY.index)


def agree(verdicts: list[Verdict]) -> Verdict:
    """Of one cell over seeds: what all seeds say, else undecided."""
    if not verdicts:
        return "not run"

    # Where seeds disagree, the verdict hangs on the training and the claim stays open.
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided"


def _inside(interval: Interval, band: Interval) -> bool:
    return band[0] <= interval[0] and interval[1] <= band[1]
