"""The paper's claims against the evidence: each is judged by Student's interval over seeds.

The 90% interval inside the claim's band supports it, outside the band of its direction refutes it,
and else the claim is undecided (docs/rules.md). A new metric is an entry in METRICS, and its name
in repro/report/claims.py.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from repro.intervals import Interval
from repro.report.cells import CLEANCLIP, OBJECTIVES
from repro.report.claims import ABOUT_BOTH, Claim, Claims, Metric
from repro.report.measures import (
    BY_NAME,
    CleanedModel,
    Evaluations,
    Pair,
    Value,
    of_both,
    of_seeds,
)
from repro.report.paper_tables import PRINTED
from repro.report.points import AUTHORS, start_models
from repro.report.verdicts import AUTHORS_ARMS, OWN, Estimate, Scope, Verdicts, estimate
from repro.spec import CleanSize, Dataset, Objective

Verdict = Literal["refuted", "not tested", "undecided", "not run", "direction only", "supported"]
SEVERITY = get_args(Verdict)
"""Of several cells, the first verdict in this order is the claim's."""


@dataclass(frozen=True)
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


METRICS: dict[Metric, str] = {
    "start_accuracy": "start_accuracy",
    "start_asr": "start_asr",
    "accuracy_gain": "start_accuracy",
    "relative_drop": "lost_at_cap",
    "drop_difference": "lost_at_cap",
    "asr_left_difference": "asr_left_at_rate",
    "kept_asr": "kept_asr",
    "lowest_asr": "lowest_asr",
    "late_drop": "late_drop",
    "late_asr": "late_asr",
}
"""The measure of every metric. Those of ABOUT_BOTH are differences of it."""


def judged_claims(
    evaluations: Evaluations,
    claims: Claims,
    verdicts: Verdicts,
    scope: Scope,
) -> list[dict[str, Any]]:
    """Every claim of the paper with its verdict, and the verdict by the authors' points.

    A claim without a study is judged on the archived seeds of the verdicts that stand first, or,
    where these do not have its runs, of the exploratory ones, or else on the report's own.
    `scope`: whether the data are the paper's. `evidence` are ClaimCells; `authors_verdict` is None
    where the authors' points, which are one training, are not at hand.
    """
    exploratory = (arms.mmcl_ssl for arms in claims.comparisons.exploratory.values())
    in_order = [verdicts.arms.mmcl_ssl, *exploratory, OWN.mmcl_ssl]
    ours = _Judge(evaluations, in_order, scope == "proxy", verdicts)
    authors = _Judge(evaluations, [AUTHORS_ARMS.mmcl_ssl], False, None)
    text = {"id", "quote", "place", "metric", "study", "absolute", "reason", "refuted_by"}
    judged = []
    for claim in claims.claims:
        evidence = list(ours.cells(claim))
        by_authors = AUTHORS in set(evaluations.frame.study) and not claim.study
        theirs = list(authors.cells(claim)) if by_authors else []
        judged.append(
            {
                **claim.model_dump(include=text),
                "measured": BY_NAME[METRICS[claim.metric]].words
                + ", MMCL + SSL less MMCL" * (claim.metric in ABOUT_BOTH),
                "fixed": claim.fixed or claims.claims_fixed,
                "expect": claim.expect.words,
                "direction": claim.direction.words if claim.direction else None,
                "scope": scope,
                "verdict": combine([cell.verdict for cell in evidence]),
                "evidence": evidence,
                "authors_verdict": combine([cell.verdict for cell in theirs]) if theirs else None,
                "authors_evidence": theirs,
            }
        )
    return judged


def judge(claim: Claim, interval: Interval, stand_in: bool) -> Verdict:
    """Verdict of an interval; on other data a value of the paper's data shows its direction only.

    The interval has an infinite end where the quantity is a bound only.
    """
    direction = claim.direction or claim.expect
    if _inside(interval, claim.expect.band):
        return "direction only" if claim.absolute and stand_in else "supported"
    if claim.absolute and stand_in and claim.direction and _inside(interval, claim.direction.band):
        return "direction only"
    low, high = direction.band
    return "refuted" if interval[1] < low or interval[0] > high else "undecided"


def combine(verdicts: list[Verdict]) -> Verdict:
    """Of a claim about several cells: one refutes it; one not run leaves it undecided."""
    if all(verdict == "not run" for verdict in verdicts):
        return "not run"
    decided: list[Verdict] = ["undecided" if v == "not run" else v for v in verdicts]
    return min(decided, key=SEVERITY.index)


def _inside(interval: Interval, band: Interval) -> bool:
    return band[0] <= interval[0] and interval[1] <= band[1]


@dataclass(frozen=True)
class _Judge:
    """Looks at claims on the first arm of several that has the runs."""

    evaluations: Evaluations
    arms: list[str]
    stand_in: bool
    verdicts: Verdicts | None
    """Our own, for the positive control; None for the authors' points, which are one training."""

    def cells(self, claim: Claim) -> Iterator[ClaimCell]:
        """The claim in each of its cells."""
        both = claim.metric in ABOUT_BOTH
        objectives = [None] if both else claim.objectives
        sizes: list[CleanSize | None] = [*claim.clean_sizes] or [None]
        for dataset, size, objective in product(claim.datasets, sizes, objectives):
            for arm in [claim.study] if claim.study else self.arms:
                pair = self._pair(claim, arm, dataset, size)
                of = BY_NAME[METRICS[claim.metric]].of
                values = (
                    of_seeds(of, pair[objective]) if objective else of_both(of, pair)["difference"]
                )
                if any(pair.values()):
                    break
            seeds = len(set[int]().union(*pair.values()))
            # The failure of CleanCLIP says little where it fails on MMCL models, too.
            needs_control = claim.loss == CLEANCLIP and objective in (None, "mmcl_ssl")
            note = self._control_note(dataset, size) if needs_control else ""
            verdict, mean, note = self._judged(claim, values, seeds, note)
            yield ClaimCell(dataset, size, objective, verdict, mean, seeds - len(values), note)

    def _judged(
        self, claim: Claim, values: Mapping[int, Value], seeds: int, note: str
    ) -> tuple[Verdict, Estimate | None, str]:
        """Verdict, estimate and note; `seeds`: how many were run."""
        if not values:
            return "undecided" if seeds else "not run", None, note
        mean = estimate(values)
        # The authors' points are of one training.
        low, high = (mean.lower, mean.upper) if self.verdicts else (mean.mean, mean.mean)
        if low is None or high is None:
            return "undecided", mean, note or "too few seeds"
        if any(value.at_most for value in values.values()):
            low = -math.inf
        verdict = judge(claim, (low, math.inf if mean.at_least else high), self.stand_in)

        # That CleanCLIP fails on a model is evidence only where it works on MMCL models. Seeds
        # without the quantity are not missing at random.
        without = seeds - len(values)
        if note and verdict != "refuted":
            verdict = "not tested"
        elif without and verdict != "refuted":
            verdict, note = "undecided", f"{without} of {seeds} seeds do not have it"
        return verdict, mean, note

    def _control_note(self, dataset: Dataset, size: CleanSize | None) -> str:
        ours = self.verdicts
        for measure in (ours.confirmed or ours.exploratory) if ours else ():
            for cell in measure.cells:
                if (cell.dataset, cell.clean_size) == (dataset, size) and cell.control:
                    return "" if cell.control.holds else f"control: {cell.control.reason}"
        return "control: no MMCL model was run" if ours else ""

    def _pair(self, claim: Claim, arm: str, dataset: Dataset, size: CleanSize | None) -> Pair:
        """The models of a cell; those of a claim about start models have no runs."""
        pair: Pair = {}
        for objective in OBJECTIVES:
            if size and claim.loss:
                models = self.evaluations.cleaned(arm, dataset, size, objective, claim.loss)
            else:
                rows = self.evaluations.rows(arm, dataset, objective)
                # A start that is printed only is no measured one.
                starts = start_models(rows[rows.run != PRINTED])
                context = self.evaluations.context
                models = {
                    int(start.seed): CleanedModel(start, rows[:0], context)
                    for _, start in starts.iterrows()
                }
            pair[objective] = models
        return pair
