"""What else is judged over seeds: the paper's claims, hypotheses of studies, and one's own run.

The verdicts on MMCL + SSL against MMCL are in repro/report/comparisons.py. docs/method.md has the
rules.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, stdev
from typing import cast

import pandas as pd

from repro.intervals import Interval, student, values_needed
from repro.report.cells import CLEANCLIP, DATASETS, OBJECTIVES
from repro.report.claims import ABOUT_BOTH, Arms, Claim, Claims, Metric, Rules
from repro.report.comparisons import OWN, Scope, Setting, Verdicts
from repro.report.measures import (
    BEFORE,
    BY_NAME,
    Evaluations,
    Measure,
    Models,
    at_rate,
    judged,
    measured,
)
from repro.report.seeds import (
    ABOVE,
    BELOW,
    FEWEST_SEEDS,
    LEVEL,
    SUM,
    Estimate,
    Expected,
    Term,
    Verdict,
    contrast,
    difference,
    estimate,
    holm,
    judge,
    p_above,
    seeds_of,
)
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


@dataclass(frozen=True)
class JudgedClaim:
    """A claim of the paper, and what was found."""

    claim: Claim
    measure: Measure
    fixed: str
    verdict: str
    evidence: list[ClaimCell]

    @property
    def words(self) -> str:
        """The quantity in words."""
        less = ", MMCL + SSL less MMCL" if self.claim.metric in ABOUT_BOTH else ""
        return self.measure.words + less


def judged_claims(
    values: pd.DataFrame,
    claims: Claims,
    verdicts: Verdicts,
    scope: Scope,
    exploratory: Arms | None = None,
) -> list[JudgedClaim]:
    """Every claim of the paper with its verdict.

    A claim without a study is judged on the archived seeds of the verdicts that stand first, or,
    where these do not have its runs, of the exploratory ones, or else on the report's own.
    `scope`: whether the data are the paper's.
    """
    later = [exploratory.mmcl_ssl] if exploratory else []
    in_order = [verdicts.arms.mmcl_ssl, *later, OWN.mmcl_ssl]
    ours = _Seeds(values, in_order, scope == "proxy", verdicts)
    found = []
    for claim in claims.claims:
        evidence = list(ours.cells(claim))
        found.append(
            JudgedClaim(
                claim=claim,
                measure=BY_NAME[METRICS[claim.metric]],
                fixed=claim.fixed or claims.claims_fixed,
                verdict=combine([cell.verdict for cell in evidence]),
                evidence=evidence,
            )
        )
    return found


def combine(verdicts: Sequence[str]) -> str:
    """Of a claim about several settings: one refutes it; one not run leaves it undecided."""
    if all(verdict == Verdict.NOT_RUN for verdict in verdicts):
        return Verdict.NOT_RUN
    decided = [Verdict.UNDECIDED if verdict == Verdict.NOT_RUN else verdict for verdict in verdicts]
    return min(decided, key=SEVERITY.index)


def expected_of(claim: Claim, stand_in: bool) -> Expected:
    """What a claim expects, on data that may stand in for the paper's."""
    return Expected(
        side=claim.expect.band,
        counts=(claim.direction or claim.expect).band,
        elsewhere=claim.absolute and stand_in,
    )


@dataclass(frozen=True)
class _Seeds:
    """Looks at claims on the first arm of several that has the runs."""

    values: pd.DataFrame
    arms: list[str]
    stand_in: bool
    verdicts: Verdicts | None
    """Our own, for the positive control; None for the authors' points, which are one training."""

    def cells(self, claim: Claim) -> Iterator[ClaimCell]:
        """The claim in each of its settings."""
        objectives = [None] if claim.metric in ABOUT_BOTH else claim.objectives
        sizes: list[CleanSize | None] = [*claim.clean_sizes] or [None]
        measure = METRICS[claim.metric]
        for dataset, size, objective in product(claim.datasets, sizes, objectives):
            terms, seeds = self._terms(claim, dataset, size)
            if objective:
                terms = {objective: Term(terms[objective].models, 1.0)}
            found = seeds_of(contrast(self.values, terms), measure)
            # The failure of CleanCLIP says little where it fails on MMCL models, too.
            needs_control = claim.loss == CLEANCLIP and objective in (None, "mmcl_ssl")
            note = self._control_note(dataset, size) if needs_control else ""
            expected = expected_of(claim, self.stand_in)
            verdict, mean, note = self._judged(expected, found, seeds, note)
            missing = seeds - len(found)
            yield ClaimCell(dataset, size, objective, verdict, mean, missing, note)

    def _terms(
        self, claim: Claim, dataset: Dataset, size: CleanSize | None
    ) -> tuple[dict[str, Term], int]:
        """The models of both objectives, and how many seeds have some."""
        for arm in [claim.study] if claim.study else self.arms:
            cleaned = size if claim.loss else None
            terms = difference([arm], [arm], dataset, cleaned, claim.loss or CLEANCLIP)
            # Every model has an accuracy before cleaning.
            alone = [contrast(self.values, {name: term}) for name, term in terms.items()]
            seeds = {seed for of in alone for seed in seeds_of(of, "start_accuracy").index}
            if seeds:
                break
        return terms, len(seeds)

    def _judged(
        self, expected: Expected, found: pd.DataFrame, seeds: int, note: str
    ) -> tuple[str, Estimate | None, str]:
        """Verdict, estimate and note; `seeds`: how many were run."""
        if found.empty:
            return Verdict.UNDECIDED if seeds else Verdict.NOT_RUN, None, note
        mean = estimate(found)
        # One training has no spread over seeds.
        sure = mean if self.verdicts else replace(mean, lower=mean.mean, upper=mean.mean)
        if sure.limits is None:
            return Verdict.UNDECIDED, mean, note or "too few seeds"
        verdict = judge(expected, sure.limits)
        if verdict == Verdict.REFUTED:
            return verdict, mean, note

        # That CleanCLIP fails on a model is evidence only where it works on MMCL models. Seeds
        # without the quantity are not missing at random.
        without = seeds - len(found)
        if note:
            return Verdict.NOT_TESTED, mean, note
        if without:
            return Verdict.UNDECIDED, mean, f"{without} of {seeds} seeds do not have it"
        return verdict, mean, note

    def _control_note(self, dataset: Dataset, size: CleanSize | None) -> str:
        ours = self.verdicts
        if not ours:
            return ""
        for cell in ours.confirmed or ours.exploratory:
            if cell.of.setting == (dataset, size):
                control = cell.of.controls["mmcl"]
                return "" if control.holds else f"control: {control.reason}"
        return "control: no MMCL model was run"


@dataclass(frozen=True)
class JudgedHypothesis:
    """A hypothesis of a study's file, and what the seeds say of it."""

    hypothesis: Hypothesis
    setting: Setting
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


def judged_hypotheses(
    name: str, study: Study, values: pd.DataFrame, weak_start: float, due: Collection[int] = ()
) -> list[JudgedHypothesis]:
    """The hypotheses of a study in the order of its file, with what the seeds say; `due` are seeds
    that lack runs.
    """
    found = {
        place: contrast(values, _terms_of(name, study, hypothesis))
        for place, hypothesis in enumerate(study.hypotheses)
    }
    ps = {place: _p(hypothesis, found[place]) for place, hypothesis in enumerate(study.hypotheses)}
    corrected: dict[int, float | None] = {}
    for family in dict.fromkeys(hypothesis.family for hypothesis in study.hypotheses):
        places = [place for place, of in enumerate(study.hypotheses) if of.family == family]
        corrected |= zip(places, holm(ps[place] for place in places), strict=True)
    return [
        _hypothesis(name, study, due, place, values, found[place], corrected[place], weak_start)
        for place in range(len(study.hypotheses))
    ]


def _setting_of(study: Study, hypothesis: Hypothesis) -> Setting:
    if hypothesis.setting:
        return Setting(*hypothesis.setting)
    [dataset] = study.datasets
    [size] = study.clean_sizes
    return Setting(dataset, size)


def _terms_of(name: str, study: Study, hypothesis: Hypothesis) -> dict[str, Term]:
    """The models that a hypothesis of the study `name` is about, by their labels."""
    terms = {}
    for label, weight in hypothesis.contrast.items():
        *_, arm, objective = f"{name}/{label}".rsplit("/", 1)
        # Of this study, where none is named.
        own = tuple(f"{name}/{variant}" for variant in study.matching(label))
        arms = own or (arm.partition("/")[2],)
        setting = _setting_of(study, hypothesis)
        models = Models(arms, cast("Objective", objective), *setting, CLEANCLIP)
        terms[label] = Term(models, weight)
    return terms


def _measure_of(hypothesis: Hypothesis) -> str:
    return at_rate(hypothesis.rate) if hypothesis.rate is not None else hypothesis.measure


def _p(hypothesis: Hypothesis, found: pd.DataFrame) -> float | None:
    """One-sided p value of a mean on the expected side of zero."""
    sign = 1 if hypothesis.expect == "above" else -1
    return p_above((sign * seeds_of(found, _measure_of(hypothesis)).value).tolist())


def _hypothesis(
    name: str,
    study: Study,
    due: Collection[int],
    place: int,
    values: pd.DataFrame,
    found: pd.DataFrame,
    p: float | None,
    weak_start: float,
) -> JudgedHypothesis:
    hypothesis = study.hypotheses[place]
    measure = _measure_of(hypothesis)
    if hypothesis.expect == "above":
        expected = Expected(ABOVE, (hypothesis.negligible, math.inf))
    else:
        expected = Expected(BELOW, (-math.inf, -hypothesis.negligible))
    by_seed = seeds_of(found, measure)
    total = None if by_seed.empty else estimate(by_seed)

    verdict, needed = Verdict.INCOMPLETE, None
    planned = _planned(study, hypothesis)
    # A model has a measure of all rates as soon as it has one of some.
    if total and total.by_seed.keys() >= planned and planned.isdisjoint(due):
        # Bounds are taken as values.
        sure = replace(total, at_least=False, at_most=False)
        verdict = judge(expected, sure.limits, p)
    if total and verdict == Verdict.UNDECIDED and total.interval:
        family = [other for other in study.hypotheses if other.family == hypothesis.family]
        spread = stdev(total.by_seed.values())
        needed = values_needed(spread, hypothesis.negligible, LEVEL / len(family))
    means = {}
    if total:
        means = {
            label: fmean(seeds_of(found, measure, label).value) for label in hypothesis.contrast
        }
    return JudgedHypothesis(
        hypothesis=hypothesis,
        setting=_setting_of(study, hypothesis),
        means=means,
        weak=_is_weak(values, _terms_of(name, study, hypothesis), weak_start),
        sum=total,
        p=p,
        verdict=verdict,
        seeds_needed=needed,
    )


def _is_weak(values: pd.DataFrame, terms: Mapping[str, Term], weak_start: float) -> bool:
    starts = [
        seeds_of(contrast(values, {label: term._replace(weight=1.0)}), "start_asr").value
        for label, term in terms.items()
    ]
    return any(fmean(asr) < weak_start for asr in starts if len(asr))


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
    values = measured(_at_shared_rates(evaluations, arms))
    for dataset, size in rules.cells:
        own = contrast(values, difference([OWN.mmcl_ssl], [OWN.mmcl_ssl], dataset, size))
        archive = contrast(values, difference([arms.first_mmcl], [arms.mmcl_ssl], dataset, size))
        for measure, side in product(judged(rules.measures), (*OBJECTIVES, SUM)):
            of = "difference" if side == SUM else side
            mine, theirs = (seeds_of(found, measure.name, side) for found in (own, archive))
            yield from _compared(measure.name, dataset, size, of, mine, theirs)


def _at_shared_rates(evaluations: Evaluations, arms: Arms) -> Evaluations:
    """The own run and the archived seeds, at the learning rates that both have."""
    frame = evaluations.frame
    grid = pd.MultiIndex.from_frame(frame[RUN])
    of_own = frame.arm == OWN.mmcl_ssl
    of_archive = frame.arm.isin([arms.first_mmcl, arms.mmcl_ssl])
    of_both_grids = grid.isin(grid[of_own]) & grid.isin(grid[of_archive])
    compared = (of_own | of_archive) & ((frame.stage == "pretrain") | of_both_grids)
    return Evaluations(frame[compared], evaluations.context)


def own_starts(values: pd.DataFrame, arms: Arms) -> Iterator[OwnValue]:
    """Accuracy and ASR before cleaning, of every model, as `own_values` has the measures."""
    for dataset, objective in product(DATASETS, OBJECTIVES):
        archived = arms.mmcl_ssl if objective == "mmcl_ssl" else arms.first_mmcl
        own, archive = (
            contrast(values, {objective: Term(Models((arm,), objective, dataset), 1.0)})
            for arm in (OWN.mmcl_ssl, archived)
        )
        for name in BEFORE:
            mine, theirs = seeds_of(own, name), seeds_of(archive, name)
            yield from _compared(name, dataset, None, objective, mine, theirs)


def _compared(
    measure: str,
    dataset: Dataset,
    size: CleanSize | None,
    of: str,
    own: pd.DataFrame,
    archive: pd.DataFrame,
) -> Iterator[OwnValue]:
    archived = archive.value[~archive.index.isin(own.index)].tolist()
    if own.empty or len(archived) < FEWEST_SEEDS:
        return
    value = fmean(own.value)
    interval = student(archived, 0.95, further=len(own))
    yield OwnValue(
        measure=measure,
        dataset=dataset,
        clean_size=size,
        of=of,
        seeds=sorted(own.index),
        value=value,
        archived=archived,
        interval=interval,
        inside=interval[0] <= value <= interval[1],
    )


def stated(
    studies: Iterable[tuple[str, Study, Collection[int]]], values: pd.DataFrame, weak_start: float
) -> dict[str, list[JudgedHypothesis]]:
    """The hypotheses of every study that states some, by its name; of each the seeds that lack
    runs.
    """
    return {
        name: judged_hypotheses(name, study, values, weak_start, due)
        for name, study, due in studies
        if study.hypotheses
    }
