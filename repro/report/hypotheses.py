"""Hypotheses that a study states in its file before its first run, judged over seeds.

docs/rules.md has the rule, under "Hypotheses of a study".
"""

from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any

from repro.report.measures import BY_NAME, Evaluations, Value, asr_left_at_rate, of_seeds
from repro.report.studies import StudyResults
from repro.report.verdicts import estimate, holm, judge, p_above
from repro.study.spec import Hypothesis, Study

LEVEL = 0.05
"""Of every one-sided test."""


def stated_hypotheses(
    studies: Iterable[StudyResults], evaluations: Evaluations
) -> dict[str, list[dict[str, Any]]]:
    """`judged_hypotheses` of every study that states some, by its name."""
    return {
        study.name: judged_hypotheses(study.name, study.spec, evaluations)
        for study in studies
        if study.spec.hypotheses
    }


def experimental_seeds(studies: Iterable[StudyResults]) -> set[int]:
    """Seeds of the studies that state hypotheses."""
    return {
        run.record.spec.seed for study in studies if study.spec.hypotheses for run in study.runs
    }


def judged_hypotheses(name: str, study: Study, evaluations: Evaluations) -> list[dict[str, Any]]:
    """The hypotheses of a study in the order of its file, with what the seeds say.

    `sum` is the Estimate of the contrast over the seeds that have all of its models, None without
    any; `p` is one-sided, after Holm's correction over the family. `verdict` is "supported",
    "supported, negligible", "refuted" or "undecided", and "incomplete" until all seeds are there.
    """
    sums = {h.says: _sums(name, study, h, evaluations) for h in study.hypotheses}
    judged = []
    for hypothesis in study.hypotheses:
        family = [h for h in study.hypotheses if h.family == hypothesis.family]
        # One-sided, on the expected side of zero.
        corrected = holm(
            p_above([v.value if h.expect == "above" else -v.value for v in sums[h.says].values()])
            for h in family
        )
        p = corrected[family.index(hypothesis)]
        by_seed, planned = sums[hypothesis.says], _planned(study, hypothesis)
        found = estimate(by_seed) if by_seed else None
        verdict = (
            judge(found, p, hypothesis.negligible, LEVEL, above=hypothesis.expect == "above")
            if found and by_seed.keys() >= planned
            else "incomplete"
        )
        judged.append({**hypothesis.model_dump(), "sum": found, "p": p, "verdict": verdict})
    return judged


def _planned(study: Study, hypothesis: Hypothesis) -> set[int]:
    """Seeds that a contrast is to have: those that all of its models of this study share."""
    of_terms = [
        {seed for variant in variants for seed in study.variants[variant].seeds}
        for variants in map(study.matching, hypothesis.contrast)
        if variants
    ]
    return set.intersection(*of_terms)


def _sums(
    name: str, study: Study, hypothesis: Hypothesis, evaluations: Evaluations
) -> dict[int, Value]:
    """The contrast of each seed that has all of its models; bounds are taken as values."""
    [place] = (
        [hypothesis.setting] if hypothesis.setting else product(study.datasets, study.clean_sizes)
    )
    quantity = BY_NAME[hypothesis.measure].of
    if hypothesis.rate is not None:
        quantity = partial(asr_left_at_rate, rate=hypothesis.rate)
    terms: list[tuple[float, dict[int, Value]]] = []
    for label, weight in hypothesis.contrast.items():
        *_, arm, objective = f"{name}/{label}".rsplit("/", 1)
        # Of this study, where none is named.
        arms = [f"{name}/{of}" for of in study.matching(label)] or [arm.partition("/")[2]]
        values: dict[int, Value] = {}
        for each in arms:
            values |= of_seeds(quantity, evaluations.cleaned(each, *place, objective))
        terms.append((weight, values))
    return {
        seed: Value(sum(weight * values[seed].value for weight, values in terms))
        for seed in sorted(set.intersection(*(set(values) for _, values in terms)))
    }
