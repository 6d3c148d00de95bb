"""The paper's claims against the evidence: each is judged by Student's interval over seeds.

The 90% interval inside the claim's band supports it, outside the band of its direction refutes it,
and else the claim is undecided (docs/rules.md). A new metric is a function here, its entry in
METRICS, and its name in repro/report/judging/claims.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from repro.intervals import Interval
from repro.report.judging.claims import ABOUT_BOTH, Claim, Claims, Metric
from repro.report.measures import (
    BOTH,
    CleanedModel,
    Context,
    Evaluations,
    Value,
    lost_at_cap,
)
from repro.report.numbers.cells import CLEANCLIP
from repro.report.numbers.tables import PRINTED
from repro.report.points import AUTHORS
from repro.report.verdicts import Estimate, Verdicts, estimate
from repro.spec import CleanSize, Dataset, Objective

Verdict = Literal["supported", "direction only", "refuted", "undecided", "not tested", "not run"]
AUTHORS_ARM = f"{AUTHORS}/"
SEVERITY: tuple[Verdict, ...] = (
    "refuted",
    "not tested",
    "undecided",
    "not run",
    "direction only",
    "supported",
)
"""Of several cells, the first verdict in this order is the claim's."""


@dataclass(frozen=True, slots=True)
class ClaimCell:
    """A claim in one cell."""

    dataset: Dataset
    clean_size: CleanSize | None
    """None for claims about models before cleaning."""
    pretrain_objective: Objective | None
    """None for claims that compare the two."""
    verdict: Verdict
    estimate: Estimate | None
    """None where no seed has the quantity."""
    without: int
    """Seeds that were run but do not have the quantity."""
    note: str


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim of specs/claims.yaml with its verdict."""

    id: str
    quote: str
    place: str
    metric: Metric
    measured: str
    """The metric in words."""
    study: str | None
    absolute: bool
    reason: str
    refuted_by: str
    fixed: str
    expect: str
    """What would support it, in words."""
    direction: str | None
    verdict: Verdict
    evidence: list[ClaimCell]
    authors_verdict: Verdict | None
    """By the authors' points, one training; None where they are not at hand."""
    authors_evidence: list[ClaimCell]


class Start(NamedTuple):
    """A model before cleaning."""

    accuracy: float
    asr: float


@dataclass(frozen=True)
class Models:
    """The models of a cell and seed."""

    starts: Mapping[Objective, Start]
    cleaned: Mapping[Objective, CleanedModel]
    context: Context
    kept_share: float


def start_accuracy(models: Models, of: Objective) -> Value | None:
    """Accuracy of the model that is cleaned."""
    return Value(models.starts[of].accuracy) if of in models.starts else None


def start_asr(models: Models, of: Objective) -> Value | None:
    """ASR of the model that is cleaned."""
    return Value(models.starts[of].asr) if of in models.starts else None


def accuracy_gain(models: Models, of: Objective) -> Value | None:
    """Accuracy of the MMCL + SSL model less that of the MMCL model, before cleaning."""
    if len(models.starts) < len(BOTH):
        return None
    return Value(models.starts["mmcl_ssl"].accuracy - models.starts["mmcl"].accuracy)


def relative_drop(models: Models, of: Objective) -> Value | None:
    """Share of the start accuracy that the best model at the ASR threshold has lost."""
    return lost_at_cap(models.cleaned[of], models.context) if of in models.cleaned else None


def drop_difference(models: Models, of: Objective) -> Value | None:
    """Share lost by the MMCL + SSL model less the share lost by the MMCL model."""
    mmcl, ssl = (relative_drop(models, of) for of in BOTH)
    if mmcl is None or ssl is None:
        return None
    return Value(ssl.value - mmcl.value, at_least=ssl.at_least, at_most=mmcl.at_least)


def kept_asr(models: Models, of: Objective) -> Value | None:
    """Lowest ASR of the evaluations that keep enough of the start accuracy."""
    if (model := models.cleaned.get(of)) is None:
        return None
    kept = model.points[model.points.accuracy >= models.kept_share * model.start_accuracy]
    return None if kept.empty else Value(float(kept.asr.min()))


def lowest_asr(models: Models, of: Objective) -> Value | None:
    """Lowest ASR of all evaluations."""
    return Value(float(models.cleaned[of].points.asr.min())) if of in models.cleaned else None


def late_drop(models: Models, of: Objective) -> Value | None:
    """Share of the accuracy lost from the best evaluation to the end of its run."""
    if (best := _best_and_last(models, of)) is None:
        return None
    return Value(1 - best[1].accuracy / best[0].accuracy)


def late_asr(models: Models, of: Objective) -> Value | None:
    """ASR at the end of the run with the best evaluation."""
    best = _best_and_last(models, of)
    return None if best is None else Value(float(best[1].asr))


METRICS: dict[Metric, tuple[str, Callable[[Models, Objective], Value | None]]] = {
    "start_accuracy": ("accuracy before cleaning", start_accuracy),
    "start_asr": ("ASR before cleaning", start_asr),
    "accuracy_gain": ("accuracy before cleaning, MMCL + SSL less MMCL", accuracy_gain),
    "relative_drop": ("share of the accuracy lost at the ASR threshold", relative_drop),
    "drop_difference": ("share of the accuracy lost, MMCL + SSL less MMCL", drop_difference),
    "kept_asr": ("lowest ASR with 95% of the accuracy kept", kept_asr),
    "lowest_asr": ("lowest ASR of all evaluations", lowest_asr),
    "late_drop": ("share lost from the best evaluation to the end of its run", late_drop),
    "late_asr": ("ASR at the end of the run with the best evaluation", late_asr),
}
"""Every metric: its words, and its function of the models of one seed."""


def judged_claims(
    evaluations: Evaluations,
    claims: Claims,
    verdicts: Verdicts,
    context: Context,
    profile: str,
    stand_in: bool,
) -> list[JudgedClaim]:
    """Every claim of the paper with its verdict, and the verdict by the authors' points.

    A claim without a study is judged on the archived seeds of the exploratory verdicts, or, where
    these do not have its runs, on the report's own. `stand_in`: the data are not the paper's.
    """
    arms = claims.comparisons.exploratory.get(profile)
    archived = [arms.mmcl_ssl] if arms and arms.study == verdicts.source else []
    ours = _Judge(evaluations, claims, context, [*archived, "/"], stand_in, verdicts)
    authors = _Judge(evaluations, claims, context, [AUTHORS_ARM], False, None)
    found = []
    for claim in claims.claims:
        evidence = list(ours.cells(claim))
        theirs = []
        if AUTHORS_ARM in evaluations.arms and not claim.study:
            theirs = list(authors.cells(claim))
        found.append(
            JudgedClaim(
                id=claim.id,
                quote=claim.quote,
                place=claim.place,
                metric=claim.metric,
                measured=METRICS[claim.metric][0],
                study=claim.study,
                absolute=claim.absolute,
                reason=claim.reason,
                refuted_by=claim.refuted_by,
                fixed=claim.fixed or claims.claims_fixed,
                expect=claim.expect.words,
                direction=claim.direction.words if claim.direction else None,
                verdict=combine([cell.verdict for cell in evidence]),
                evidence=evidence,
                authors_verdict=combine([cell.verdict for cell in theirs]) if theirs else None,
                authors_evidence=theirs,
            )
        )
    return found


def judge(claim: Claim, interval: Interval, stand_in: bool) -> Verdict:
    """Verdict of an interval; on other data a value of the paper's data shows its direction only.

    The interval has an infinite end where the quantity is a bound only.
    """
    direction = claim.direction or claim.expect
    if _inside(interval, claim.expect.band):
        return "direction only" if claim.absolute and stand_in else "supported"
    if claim.absolute and claim.direction and _inside(interval, claim.direction.band):
        return "direction only"
    low, high = direction.band
    return "refuted" if interval[1] < low or interval[0] > high else "undecided"


def combine(verdicts: list[Verdict]) -> Verdict:
    """Of a claim about several cells: one refutes it; one not run leaves it undecided."""
    if all(verdict == "not run" for verdict in verdicts):
        return "not run"
    decided: list[Verdict] = ["undecided" if v == "not run" else v for v in verdicts]
    return min(decided, key=SEVERITY.index)


@dataclass(frozen=True)
class _Judge:
    """Looks at claims on the first arm of several that has the runs."""

    evaluations: Evaluations
    claims: Claims
    context: Context
    arms: list[str]
    stand_in: bool
    verdicts: Verdicts | None
    """Our own, for the positive control; None for the authors' points, which are one training."""

    def cells(self, claim: Claim) -> Iterator[ClaimCell]:
        """The claim in each of its cells."""
        both = claim.metric in ABOUT_BOTH
        for dataset in claim.datasets:
            for size in claim.clean_sizes or (None,):
                for of in claim.objectives[:1] if both else claim.objectives:
                    values: dict[int, Value | None] = {}
                    for arm in [claim.study] if claim.study else self.arms:
                        by_seed = self._models(claim, arm, dataset, size)
                        values = {s: METRICS[claim.metric][1](m, of) for s, m in by_seed.items()}
                        if any(values.values()):
                            break
                    # The failure of CleanCLIP says little where it fails on MMCL models, too.
                    note = ""
                    if self.verdicts and claim.loss == CLEANCLIP and (both or of == "mmcl_ssl"):
                        note = _control_note(self.verdicts, dataset, size)
                    place = (dataset, size, None if both else of)
                    yield self._cell(claim, place, values, note)

    def _cell(
        self,
        claim: Claim,
        place: tuple[Dataset, CleanSize | None, Objective | None],
        values: Mapping[int, Value | None],
        note: str,
    ) -> ClaimCell:
        known = {seed: value for seed, value in values.items() if value is not None}
        without = len(values) - len(known)
        if not known:
            return ClaimCell(*place, "undecided" if values else "not run", None, without, note)
        at_least = any(value.at_least for value in known.values())
        found = estimate({seed: value.value for seed, value in known.items()}, at_least)
        one = self.verdicts is None
        ends = (found.mean, found.mean) if one else (found.lower, found.upper)
        if ends[0] is None or ends[1] is None:
            return ClaimCell(*place, "undecided", found, without, note or "too few seeds")
        low = -math.inf if any(value.at_most for value in known.values()) else ends[0]
        verdict = judge(claim, (low, math.inf if at_least else ends[1]), self.stand_in)

        # That CleanCLIP fails on a model is evidence only where it works on MMCL models. Seeds
        # without the quantity are not missing at random.
        if note and verdict in ("supported", "direction only"):
            verdict = "not tested"
        elif without and verdict != "refuted":
            verdict, note = "undecided", f"{without} of {len(values)} seeds do not have it"
        return ClaimCell(*place, verdict, found, without, note)

    def _models(
        self, claim: Claim, arm: str, dataset: Dataset, size: CleanSize | None
    ) -> dict[int, Models]:
        """The models of a cell by seed."""
        starts: dict[int, dict[Objective, Start]] = {}
        cleaned: dict[int, dict[Objective, CleanedModel]] = {}
        for objective in BOTH:
            if size is not None and claim.loss is not None:
                models = self.evaluations.cleaned(arm, dataset, size, objective, claim.loss)
                for seed, model in models.items():
                    cleaned.setdefault(seed, {})[objective] = model
            elif (of := self.evaluations.rows.get((arm, dataset, objective))) is not None:
                # Pre-training measured the model that it left; else a run that cleans it did.
                left = of[(of.stage == "pretrain") & of.handed_on.astype(bool)]
                found = of[(of.stage == "clean") & (of.step == 0) & (of.run != PRINTED)]
                for row in pd.concat([left, found]).drop_duplicates("seed").itertuples():
                    start = Start(float(row.accuracy), float(row.asr))
                    starts.setdefault(int(row.seed), {})[objective] = start
        kept, seeds = self.claims.kept_share, sorted(starts.keys() | cleaned.keys())
        return {s: Models(starts.get(s, {}), cleaned.get(s, {}), self.context, kept) for s in seeds}


def _best_and_last(models: Models, of: Objective) -> tuple[pd.Series, pd.Series] | None:
    """The best evaluation and the last of its run; None where there is no later one."""
    if (model := models.cleaned.get(of)) is None or model.ends.empty:
        return None
    if (best := model.best) is None:
        return None
    last = model.points[model.points.run == best.run].sort_values("step").iloc[-1]
    return None if last.step == best.step else (best, last)


def _control_note(verdicts: Verdicts, dataset: Dataset, size: CleanSize | None) -> str:
    for measure in verdicts.exploratory:
        for cell in measure.cells:
            if (cell.dataset, cell.clean_size) == (dataset, size) and cell.control:
                return "" if cell.control.holds else f"control: {cell.control.reason}"
    return ""


def _inside(interval: Interval, band: Interval) -> bool:
    return band[0] <= interval[0] and interval[1] <= band[1]
