"""The paper's claims against the evidence: each is judged by Student's interval over seeds.

The 90% interval inside the claim's band supports it, outside the band of its direction refutes it,
and else the claim is undecided (docs/rules.md). A new metric is a function here, its entry in
METRICS, and its name in repro/report/judging/claims.py.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

from repro.intervals import Interval
from repro.report.judging.claims import ABOUT_BOTH, Claim, Claims, Metric
from repro.report.measures import CleanedModel, Context, Evaluations, Value, lost_at_cap
from repro.report.numbers.cells import CLEANCLIP, OBJECTIVES
from repro.report.numbers.tables import PRINTED
from repro.report.points import AUTHORS, start_models
from repro.report.verdicts import Estimate, Verdicts, estimate
from repro.spec import CleanSize, Dataset, Objective

Verdict = Literal["refuted", "not tested", "undecided", "not run", "direction only", "supported"]
AUTHORS_ARM = f"{AUTHORS}/"
SEVERITY = get_args(Verdict)
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


Models = Mapping[Objective, CleanedModel]
"""The models of a cell and seed; those of a claim about start models have no runs."""


def start_accuracy(models: Models, objective: Objective, context: Context) -> Value | None:
    """Accuracy of the model that is cleaned."""
    return Value(float(models[objective].start.accuracy)) if objective in models else None


def start_asr(models: Models, objective: Objective, context: Context) -> Value | None:
    """ASR of the model that is cleaned."""
    return Value(float(models[objective].start.asr)) if objective in models else None


def accuracy_gain(models: Models, objective: Objective, context: Context) -> Value | None:
    """Accuracy of the MMCL + SSL model less that of the MMCL model, before cleaning."""
    mmcl, ssl = (start_accuracy(models, objective, context) for objective in OBJECTIVES)
    return Value(ssl.value - mmcl.value) if mmcl and ssl else None


def relative_drop(models: Models, objective: Objective, context: Context) -> Value | None:
    """Share of the start accuracy that the best model at the ASR threshold has lost."""
    return lost_at_cap(models[objective], context) if objective in models else None


def drop_difference(models: Models, objective: Objective, context: Context) -> Value | None:
    """Share lost by the MMCL + SSL model less the share lost by the MMCL model."""
    mmcl, ssl = (relative_drop(models, objective, context) for objective in OBJECTIVES)
    if mmcl is None or ssl is None:
        return None
    return Value(ssl.value - mmcl.value, at_least=ssl.at_least, at_most=mmcl.at_least)


def kept_asr(models: Models, objective: Objective, context: Context) -> Value | None:
    """Lowest ASR of the evaluations that keep enough of the start accuracy."""
    if objective not in models:
        return None
    points = models[objective].points
    kept = points[points.accuracy >= context.kept_share * models[objective].start.accuracy]
    return None if kept.empty else Value(float(kept.asr.min()))


def lowest_asr(models: Models, objective: Objective, context: Context) -> Value | None:
    """Lowest ASR of all evaluations."""
    return Value(float(models[objective].points.asr.min())) if objective in models else None


def late_drop(models: Models, objective: Objective, context: Context) -> Value | None:
    """Share of the accuracy lost from the best evaluation to the end of its run."""
    if (best := _best_and_last(models, objective)) is None:
        return None
    return Value(1 - best[1].accuracy / best[0].accuracy)


def late_asr(models: Models, objective: Objective, context: Context) -> Value | None:
    """ASR at the end of the run with the best evaluation."""
    best = _best_and_last(models, objective)
    return None if best is None else Value(float(best[1].asr))


def _best_and_last(models: Models, objective: Objective) -> tuple[pd.Series, pd.Series] | None:
    """The best evaluation and the last of its run; None where there is no later one."""
    model = models.get(objective)
    if model is None or model.ends.empty or model.best is None:
        return None
    last = model.points[model.points.run == model.best.run].sort_values("step").iloc[-1]
    return None if last.step == model.best.step else (model.best, last)


METRICS: dict[Metric, tuple[str, Callable[[Models, Objective, Context], Value | None]]] = {
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
) -> list[dict[str, Any]]:
    """Every claim of the paper with its verdict, and the verdict by the authors' points.

    A claim without a study is judged on the archived seeds of the exploratory verdicts, or, where
    these do not have its runs, on the report's own. `stand_in`: the data are not the paper's.
    `evidence` are ClaimCells; `authors_verdict` is None where the authors' points, which are one
    training, are not at hand.
    """
    arms = claims.comparisons.exploratory.get(profile)
    archived = [arms.mmcl_ssl] if arms and arms.study == verdicts.source else []
    ours = _Judge(evaluations, context, [*archived, "/"], stand_in, verdicts)
    authors = _Judge(evaluations, context, [AUTHORS_ARM], False, None)
    text = {"id", "quote", "place", "metric", "study", "absolute", "reason", "refuted_by"}
    judged = []
    for claim in claims.claims:
        evidence = list(ours.cells(claim))
        by_authors = AUTHORS_ARM in evaluations.arms and not claim.study
        theirs = list(authors.cells(claim)) if by_authors else []
        judged.append(
            {
                **claim.model_dump(include=text),
                "measured": METRICS[claim.metric][0],
                "fixed": claim.fixed or claims.claims_fixed,
                "expect": claim.expect.words,
                "direction": claim.direction.words if claim.direction else None,
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


def _inside(interval: Interval, band: Interval) -> bool:
    return band[0] <= interval[0] and interval[1] <= band[1]


@dataclass(frozen=True)
class _Judge:
    """Looks at claims on the first arm of several that has the runs."""

    evaluations: Evaluations
    context: Context
    arms: list[str]
    stand_in: bool
    verdicts: Verdicts | None
    """Our own, for the positive control; None for the authors' points, which are one training."""

    def cells(self, claim: Claim) -> Iterator[ClaimCell]:
        """The claim in each of its cells."""
        both, metric = claim.metric in ABOUT_BOTH, METRICS[claim.metric][1]
        for dataset in claim.datasets:
            for size in claim.clean_sizes or (None,):
                for objective in claim.objectives[:1] if both else claim.objectives:
                    values: dict[int, Value | None] = {}
                    for arm in [claim.study] if claim.study else self.arms:
                        by_seed = self._models(claim, arm, dataset, size)
                        values = {s: metric(m, objective, self.context) for s, m in by_seed.items()}
                        if any(values.values()):
                            break
                    # The failure of CleanCLIP says little where it fails on MMCL models, too.
                    needs_control = claim.loss == CLEANCLIP and (both or objective == "mmcl_ssl")
                    note = self._control_note(dataset, size) if needs_control else ""
                    verdict, mean, without, note = self._judged(claim, values, note)
                    place = (dataset, size, None if both else objective)
                    yield ClaimCell(*place, verdict, mean, without, note)

    def _judged(
        self, claim: Claim, values: Mapping[int, Value | None], note: str
    ) -> tuple[Verdict, Estimate | None, int, str]:
        """Verdict, estimate, seeds without the quantity, and note."""
        known = {seed: value for seed, value in values.items() if value is not None}
        without = len(values) - len(known)
        if not known:
            return "undecided" if values else "not run", None, without, note
        at_least = any(value.at_least for value in known.values())
        mean = estimate({seed: value.value for seed, value in known.items()}, at_least)
        # The authors' points are of one training.
        low, high = (mean.lower, mean.upper) if self.verdicts else (mean.mean, mean.mean)
        if low is None or high is None:
            return "undecided", mean, without, note or "too few seeds"
        if any(value.at_most for value in known.values()):
            low = -math.inf
        verdict = judge(claim, (low, math.inf if at_least else high), self.stand_in)

        # That CleanCLIP fails on a model is evidence only where it works on MMCL models. Seeds
        # without the quantity are not missing at random.
        if note and verdict in ("supported", "direction only"):
            verdict = "not tested"
        elif without and verdict != "refuted":
            verdict, note = "undecided", f"{without} of {len(values)} seeds do not have it"
        return verdict, mean, without, note

    def _control_note(self, dataset: Dataset, size: CleanSize | None) -> str:
        for measure in self.verdicts.exploratory if self.verdicts else ():
            for cell in measure.cells:
                if (cell.dataset, cell.clean_size) == (dataset, size) and cell.control:
                    return "" if cell.control.holds else f"control: {cell.control.reason}"
        return ""

    def _models(
        self, claim: Claim, arm: str, dataset: Dataset, size: CleanSize | None
    ) -> dict[int, dict[Objective, CleanedModel]]:
        """The models of a cell by seed."""
        by_seed: dict[int, dict[Objective, CleanedModel]] = defaultdict(dict)
        for objective in OBJECTIVES:
            models: dict[int, CleanedModel] = {}
            if size is not None and claim.loss is not None:
                models = self.evaluations.cleaned(arm, dataset, size, objective, claim.loss)
            elif (rows := self.evaluations.rows.get((arm, dataset, objective))) is not None:
                # A start that is printed only is no measured one.
                starts = start_models(rows[rows.run != PRINTED])
                models = {int(s.seed): CleanedModel(s, rows[:0], 0) for _, s in starts.iterrows()}
            for seed, model in models.items():
                by_seed[seed][objective] = model
        return dict(sorted(by_seed.items()))
