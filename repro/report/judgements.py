"""What else is judged over seeds: the paper's claims, hypotheses of studies, and one's own run.

The verdicts on MMCL + SSL against MMCL are in repro/report/verdicts.py. docs/method.md has the
rules.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import fmean, stdev
from typing import cast

import pandas as pd

from repro.intervals import Interval, student, values_needed
from repro.report.cells import CLEANCLIP, DATASETS, OBJECTIVES
from repro.report.claims import ABOUT_BOTH, Arms, Claim, Claims, Metric, Rules
from repro.report.contrasts import (
    ABOVE,
    BELOW,
    FEWEST_SEEDS,
    Contrast,
    Estimate,
    Tested,
    Verdict,
    difference,
    estimate,
    judge,
    tested,
)
from repro.report.measures import BY_NAME, Evaluations, Models, Value, asr_left_at_rate, judged
from repro.report.points import AUTHORS
from repro.report.studies import StudyResults
from repro.report.verdicts import AUTHORS_ARMS, OWN, Scope, Verdicts
from repro.spec import CleanSize, Dataset, Objective
from repro.study.spec import Hypothesis, Study

SEVERITY = (
    Verdict.REFUTED,
    Verdict.NOT_TESTED,
    Verdict.UNDECIDED,
    Verdict.NOT_RUN,
    Verdict.DIRECTION,
    Verdict.SUPPORTED,
)
"""Of several cells, the first verdict in this order is the claim's."""
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


@dataclass(frozen=True)
class ClaimCell:
    """A claim in one setting."""

    dataset: Dataset
    clean_size: CleanSize | None
    """None for claims about models before cleaning."""
    pretrain_objective: Objective | None
    """None for claims that compare the two."""
    verdict: str
    estimate: Estimate | None
    """None where no seed has the quantity."""
    without: int
    """Seeds that were run but do not have the quantity."""
    note: str


STATED = {"id", "quote", "place", "metric", "study", "absolute", "reason", "refuted_by"}
"""Fields of a claim that stand beside what was found."""


@dataclass(frozen=True)
class JudgedClaim:
    """A claim of the paper: STATED, and what was found."""

    id: str
    quote: str
    place: str
    metric: Metric
    study: str | None
    absolute: bool
    reason: str
    refuted_by: str
    measured: str
    """The quantity in words."""
    fixed: str
    expect: str
    direction: str | None
    scope: Scope
    verdict: str
    evidence: list[ClaimCell]
    authors_verdict: str | None
    """By the authors' points, which are one training; None where they are not at hand."""
    authors_evidence: list[ClaimCell]


def judged_claims(
    evaluations: Evaluations, claims: Claims, verdicts: Verdicts, scope: Scope
) -> list[JudgedClaim]:
    """Every claim of the paper with its verdict, and the verdict by the authors' points.

    A claim without a study is judged on the archived seeds of the verdicts that stand first, or,
    where these do not have its runs, of the exploratory ones, then of the further ones, or else on
    the report's own.
    `scope`: whether the data are the paper's.
    """
    exploratory = (arms.mmcl_ssl for arms in claims.comparisons.exploratory.values())
    further = claims.comparisons.further
    in_order = [verdicts.arms.mmcl_ssl, *exploratory, *further, OWN.mmcl_ssl]
    ours = _Seeds(evaluations, in_order, scope == "proxy", verdicts)
    authors = _Seeds(evaluations, [AUTHORS_ARMS.mmcl_ssl], False, None)
    have_authors = AUTHORS in set(evaluations.frame.study)
    found = []
    for claim in claims.claims:
        evidence = list(ours.cells(claim))
        theirs = list(authors.cells(claim)) if have_authors and not claim.study else []
        less = ", MMCL + SSL less MMCL" if claim.metric in ABOUT_BOTH else ""
        found.append(
            JudgedClaim(
                **claim.model_dump(include=STATED),
                measured=BY_NAME[METRICS[claim.metric]].words + less,
                fixed=claim.fixed or claims.claims_fixed,
                expect=claim.expect.words,
                direction=claim.direction.words if claim.direction else None,
                scope=scope,
                verdict=combine([cell.verdict for cell in evidence]),
                evidence=evidence,
                authors_verdict=combine([cell.verdict for cell in theirs]) if theirs else None,
                authors_evidence=theirs,
            )
        )
    return found


def combine(verdicts: Sequence[str]) -> str:
    """Of a claim about several settings: one refutes it; one not run leaves it undecided."""
    if all(verdict == Verdict.NOT_RUN for verdict in verdicts):
        return Verdict.NOT_RUN
    decided = [Verdict.UNDECIDED if verdict == Verdict.NOT_RUN else verdict for verdict in verdicts]
    return min(decided, key=SEVERITY.index)


def contrast_of(claim: Claim, terms: Mapping[Models, float], stand_in: bool) -> Contrast:
    """A claim about some models, on data that may stand in for the paper's."""
    return Contrast(
        BY_NAME[METRICS[claim.metric]].of,
        terms,
        expect=claim.expect.band,
        counts=(claim.direction or claim.expect).band,
        elsewhere=claim.absolute and stand_in,
    )


@dataclass(frozen=True)
class _Seeds:
    """Looks at claims on the first arm of several that has the runs."""

    evaluations: Evaluations
    arms: list[str]
    stand_in: bool
    verdicts: Verdicts | None
    """Our own, for the positive control; None for the authors' points, which are one training."""

    def cells(self, claim: Claim) -> Iterator[ClaimCell]:
        """The claim in each of its settings."""
        objectives = [None] if claim.metric in ABOUT_BOTH else claim.objectives
        sizes: list[CleanSize | None] = [*claim.clean_sizes] or [None]
        for dataset, size, objective in product(claim.datasets, sizes, objectives):
            terms, seeds = self._terms(claim, dataset, size)
            if objective:
                terms = {of: 1.0 for of in terms if of.objective == objective}
            contrast = contrast_of(claim, terms, self.stand_in)
            values = contrast.sides(self.evaluations)[-1]
            # The failure of CleanCLIP says little where it fails on MMCL models, too.
            needs_control = claim.loss == CLEANCLIP and objective in (None, "mmcl_ssl")
            note = self._control_note(dataset, size) if needs_control else ""
            verdict, mean, note = self._judged(contrast, values, seeds, note)
            missing = seeds - len(values)
            yield ClaimCell(dataset, size, objective, verdict, mean, missing, note)

    def _terms(
        self, claim: Claim, dataset: Dataset, size: CleanSize | None
    ) -> tuple[dict[Models, float], int]:
        """The models of both objectives, and how many seeds have some."""
        for arm in [claim.study] if claim.study else self.arms:
            cleaned = size if claim.loss else None
            terms = difference((arm,), (arm,), dataset, cleaned, claim.loss or CLEANCLIP)
            seeds = {seed for of in terms for seed in self.evaluations.models(of)}
            if seeds:
                break
        return terms, len(seeds)

    def _judged(
        self, contrast: Contrast, values: Mapping[int, Value], seeds: int, note: str
    ) -> tuple[str, Estimate | None, str]:
        """Verdict, estimate and note; `seeds`: how many were run."""
        if not values:
            return Verdict.UNDECIDED if seeds else Verdict.NOT_RUN, None, note
        mean = estimate(values)
        # One training has no spread over seeds.
        sure = mean if self.verdicts else replace(mean, lower=mean.mean, upper=mean.mean)
        if sure.limits is None:
            return Verdict.UNDECIDED, mean, note or "too few seeds"
        verdict = judge(contrast, sure.limits)
        if verdict == Verdict.REFUTED:
            return verdict, mean, note

        # That CleanCLIP fails on a model is evidence only where it works on MMCL models. Seeds
        # without the quantity are not missing at random.
        without = seeds - len(values)
        if note:
            return Verdict.NOT_TESTED, mean, note
        if without:
            return Verdict.UNDECIDED, mean, f"{without} of {seeds} seeds do not have it"
        return verdict, mean, note

    def _control_note(self, dataset: Dataset, size: CleanSize | None) -> str:
        ours = self.verdicts
        if not ours:
            return ""
        for measure in ours.confirmed or ours.exploratory:
            for cell in measure.cells:
                if (cell.dataset, cell.clean_size) == (dataset, size) and cell.control:
                    return "" if cell.control.holds else f"control: {cell.control.reason}"
        return "control: no MMCL model was run"


class JudgedHypothesis(Hypothesis):
    """A hypothesis of a study's file, and what the seeds say of it."""

    setting: tuple[Dataset, CleanSize]
    """Also where the study's file names none, because it has one of each."""
    means: dict[str, float]
    """Of the measure, for the models of each term of the contrast; empty without any seed."""
    weak: bool
    """Do some of its models have a weak backdoor before cleaning, by the rules' mean ASR?"""
    sum: Estimate | None
    """Of the contrast, over the seeds that have all of its models; None without any."""
    p: float | None
    """One-sided, after Holm's correction over the family."""
    verdict: str
    """Verdict.INCOMPLETE until all seeds are there."""
    seeds_needed: int | None
    """Where it is undecided: seeds with which a mean of `negligible` would be seen four times in
    five, at the spread of those at hand and the level of a test of the family's first step.
    """


def stated_hypotheses(
    studies: Iterable[StudyResults], evaluations: Evaluations
) -> dict[str, list[JudgedHypothesis]]:
    """The hypotheses of every study that states some, by its name."""
    return {
        study.name: judged_hypotheses(study.name, study.spec, evaluations, study.seeds_due)
        for study in studies
        if study.spec.hypotheses
    }


def experimental_seeds(studies: Iterable[StudyResults]) -> set[int]:
    """Seeds of the studies that state hypotheses."""
    return {
        run.record.spec.seed for study in studies if study.spec.hypotheses for run in study.runs
    }


def judged_hypotheses(
    name: str, study: Study, evaluations: Evaluations, due: Collection[int] = ()
) -> list[JudgedHypothesis]:
    """The hypotheses of a study in the order of its file, with what the seeds say; `due` are seeds
    that lack runs.
    """
    contrasts = [_stated(name, study, hypothesis) for hypothesis in study.hypotheses]
    results = tested(contrasts, evaluations)
    return [
        _hypothesis(study, due, *of, weak=_is_weak(of[1], evaluations))
        for of in zip(study.hypotheses, contrasts, results, strict=True)
    ]


def _is_weak(contrast: Contrast, evaluations: Evaluations) -> bool:
    every = (evaluations.models(of).values() for of in contrast.terms)
    starts = [fmean(model.start.asr for model in models) for models in every if models]
    return any(asr < evaluations.context.weak_start for asr in starts)


def _stated(name: str, study: Study, hypothesis: Hypothesis) -> Contrast:
    """The contrast of a hypothesis of the study `name`."""
    if hypothesis.setting:
        dataset, size = hypothesis.setting
    else:
        [dataset] = study.datasets
        [size] = study.clean_sizes
    quantity = BY_NAME[hypothesis.measure].of
    if hypothesis.rate is not None:
        quantity = partial(asr_left_at_rate, rate=hypothesis.rate)
    terms = {}
    for label, weight in hypothesis.contrast.items():
        *_, arm, objective = f"{name}/{label}".rsplit("/", 1)
        # Of this study, where none is named.
        own = tuple(f"{name}/{variant}" for variant in study.matching(label))
        arms = own or (arm.partition("/")[2],)
        of = Models(arms, cast("Objective", objective), dataset, size, hypothesis.loss)
        terms[of] = weight
    if hypothesis.expect == "above":
        expect, counts = ABOVE, (hypothesis.negligible, math.inf)
    else:
        expect, counts = BELOW, (-math.inf, -hypothesis.negligible)
    return Contrast(quantity, terms, expect=expect, counts=counts, family=hypothesis.family)


def _hypothesis(
    study: Study,
    due: Collection[int],
    hypothesis: Hypothesis,
    contrast: Contrast,
    result: Tested,
    weak: bool,
) -> JudgedHypothesis:
    found = estimate(result.total) if result.total else None
    verdict, needed = Verdict.INCOMPLETE, None
    planned = _planned(study, hypothesis)
    # A model has a measure of all rates as soon as it has one of some.
    if found and result.total.keys() >= planned and planned.isdisjoint(due):
        # Bounds are taken as values.
        limits = estimate({seed: Value(of.value) for seed, of in result.total.items()}).limits
        verdict = judge(contrast, limits, result.p_holm)
    if found and verdict == Verdict.UNDECIDED and found.interval:
        family = [other for other in study.hypotheses if other.family == hypothesis.family]
        spread = stdev(found.by_seed.values())
        needed = values_needed(spread, hypothesis.negligible, contrast.level / len(family))
    means = {}
    if found:
        for label, side in zip(hypothesis.contrast, result.sides[:-1], strict=True):
            means[label] = fmean(value.value for value in side.values())
    of = next(iter(contrast.terms))
    return JudgedHypothesis(
        **hypothesis.model_dump() | {"setting": (of.dataset, of.clean_size)},
        means=means,
        weak=weak,
        sum=found,
        p=result.p_holm,
        verdict=verdict,
        seeds_needed=needed,
    )


def _planned(study: Study, hypothesis: Hypothesis) -> set[int]:
    """Seeds that a contrast is to have: those that all of its models of this study share."""
    of_terms = []
    for label in hypothesis.contrast:
        if variants := study.matching(label):
            of_terms.append({seed for name in variants for seed in study.variants[name].seeds})
    return set.intersection(*of_terms)


@dataclass(frozen=True)
class OwnValue:
    """A measure of one's own run beside those of the archived seeds: is it one more draw from the
    same distribution?
    """

    measure: str
    dataset: Dataset
    clean_size: CleanSize | None
    """None for a measure before cleaning."""
    of: str
    """Pre-training objective, or `difference`."""
    seeds: list[int]
    """Of the own run."""
    value: float
    """Mean over `seeds`."""
    archived: list[float]
    """One a seed of the archive that is none of the own run's."""
    interval: Interval
    """95% prediction interval of such a mean from `archived`."""
    inside: bool


RUN = ["dataset", "clean_size", "pretrain_objective", "loss", "learning_rate"]


def own_values(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[OwnValue]:
    """Every measure of the own run in every setting, of both models and their difference.

    Both are measured at the learning rates that both have. Nothing where there are fewer than
    FEWEST_SEEDS other seeds.
    """
    frame = evaluations.frame
    grid = pd.MultiIndex.from_frame(frame[RUN])
    of_own = frame.arm == OWN.mmcl_ssl
    of_archive = frame.arm.isin([arms.first_mmcl, arms.mmcl_ssl])
    of_both_grids = grid.isin(grid[of_own]) & grid.isin(grid[of_archive])
    shared = Evaluations(frame[(frame.stage == "pretrain") | of_both_grids], evaluations.context)

    for (dataset, size), measure in product(rules.cells, judged(rules.measures)):
        of_own_run = difference((OWN.mmcl_ssl,), (OWN.mmcl_ssl,), dataset, size)
        of_the_archive = difference((arms.first_mmcl,), (arms.mmcl_ssl,), dataset, size)
        own = Contrast(measure.of, of_own_run).sides(shared)
        archive = Contrast(measure.of, of_the_archive).sides(shared)
        for side, mine, theirs in zip((*OBJECTIVES, "difference"), own, archive, strict=True):
            yield from _compared(measure.name, dataset, size, side, mine, theirs)


def own_starts(evaluations: Evaluations, arms: Arms) -> Iterator[OwnValue]:
    """Accuracy and ASR before cleaning, of every model, as `own_values` has the measures."""
    for dataset, objective in product(DATASETS, OBJECTIVES):
        archived = arms.mmcl_ssl if objective == "mmcl_ssl" else arms.first_mmcl
        mine = Models((OWN.mmcl_ssl,), objective, dataset)
        theirs = mine._replace(arms=(archived,))
        for name in ("start_accuracy", "start_asr"):
            measure = BY_NAME[name].of
            own = evaluations.values(mine, measure)
            archive = evaluations.values(theirs, measure)
            yield from _compared(name, dataset, None, objective, own, archive)


def _compared(
    measure: str,
    dataset: Dataset,
    size: CleanSize | None,
    side: str,
    own: Mapping[int, Value],
    archive: Mapping[int, Value],
) -> Iterator[OwnValue]:
    archived = [of.value for seed, of in archive.items() if seed not in own]
    if not own or len(archived) < FEWEST_SEEDS:
        return
    value = fmean(of.value for of in own.values())
    interval = student(archived, 0.95, further=len(own))
    like_archive = Contrast(BY_NAME[measure].of, {}, expect=interval, counts=interval)
    yield OwnValue(
        measure=measure,
        dataset=dataset,
        clean_size=size,
        of=side,
        seeds=sorted(own),
        value=value,
        archived=archived,
        interval=interval,
        inside=judge(like_archive, (value, value)) == Verdict.SUPPORTED,
    )
