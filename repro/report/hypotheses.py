"""Hypotheses that a study states in its file before its first run, judged over seeds.

docs/rules.md has the rule, under "Hypotheses of a study".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from repro.report.measures import CleanedModel, Context, Evaluations, asr_left_at_rate
from repro.report.verdicts import Estimate, estimate, holm, p_above
from repro.spec import Objective
from repro.study.spec import Hypothesis, Study

LOSSES_OF_ACCURACY = np.linspace(0.0, 0.2, 201)
"""Shares of the start accuracy over which `asr_frontier` is averaged."""


@dataclass(frozen=True, slots=True)
class JudgedHypothesis:
    """A hypothesis and what the seeds say."""

    family: str
    says: str
    measure: str
    contrast: dict[str, float]
    expect: Literal["above", "below"]
    negligible: float
    sum: Estimate | None
    """Of the contrast, over the seeds that have all of its models; None without any."""
    p: float | None
    """One-sided, after Holm's correction over the family."""
    verdict: str
    """"supported", "supported, negligible", "refuted", "undecided" or "not run"."""


def judged_hypotheses(
    name: str, study: Study, evaluations: Evaluations, context: Context
) -> list[JudgedHypothesis]:
    """The hypotheses of a study in the order of its file; "not run" until all of its seeds are
    there.
    """
    sums = {
        hypothesis.says: _sum_by_seed(name, study, hypothesis, evaluations, context)
        for hypothesis in study.hypotheses
    }
    planned = {seed for variant in study.variants.values() for seed in variant.seeds}
    judged = []
    for hypothesis in study.hypotheses:
        family = [h for h in study.hypotheses if h.family == hypothesis.family]
        corrected = holm([p_above(list(_expected(h, sums[h.says]).values())) for h in family])
        p = corrected[family.index(hypothesis)]
        by_seed = sums[hypothesis.says]
        complete = by_seed.keys() >= planned
        judged.append(
            JudgedHypothesis(
                **hypothesis.model_dump(),
                sum=estimate(by_seed) if by_seed else None,
                p=p,
                verdict=_verdict(hypothesis, by_seed, p) if complete else "not run",
            )
        )
    return judged


def asr_frontier(model: CleanedModel, context: Context) -> float:
    """Mean over losses of accuracy from 0 to 20% of the start of the test ASR of the evaluation
    with the lowest ASR on the validation images among those that lose no more there.
    """
    states = pd.concat([model.start.to_frame().T, model.points])
    kept = states.validation_accuracy / model.start.validation_accuracy
    left = []
    for lost in LOSSES_OF_ACCURACY:
        allowed = states[kept >= 1 - lost]
        left.append(allowed.test_asr.iloc[int(np.argmin(allowed.validation_asr))])
    return float(np.mean(left))


def _asr_left(model: CleanedModel, context: Context) -> float | None:
    value = asr_left_at_rate(model, context)
    return None if value is None else value.value


MEASURES: dict[str, Callable[[CleanedModel, Context], float | None]] = {
    "asr_left_at_rate": _asr_left,
    "asr_frontier": asr_frontier,
}


def _sum_by_seed(
    name: str, study: Study, hypothesis: Hypothesis, evaluations: Evaluations, context: Context
) -> dict[int, float]:
    """The contrast of each seed that has all of its models."""
    [dataset], [size] = study.datasets, study.clean_sizes
    of = MEASURES[hypothesis.measure]
    terms: list[tuple[float, Mapping[int, CleanedModel]]] = []
    for label, weight in hypothesis.contrast.items():
        *other, variant, trained = label.split("/")
        arm = f"{other[0] if other else name}/{variant}"
        [objective] = (each for each in get_args(Objective) if each == trained)
        terms.append((weight, evaluations.cleaned(arm, dataset, size, objective)))
    sums = {}
    for seed in sorted(set.intersection(*(set(models) for _, models in terms))):
        values = [(weight, of(models[seed], context)) for weight, models in terms]
        if all(value is not None for _, value in values):
            sums[seed] = sum(weight * value for weight, value in values if value is not None)
    return sums


def _expected(hypothesis: Hypothesis, by_seed: Mapping[int, float]) -> dict[int, float]:
    """The sums with the expected side above zero."""
    sign = 1 if hypothesis.expect == "above" else -1
    return {seed: sign * value for seed, value in by_seed.items()}


def _verdict(hypothesis: Hypothesis, by_seed: Mapping[int, float], p: float | None) -> str:
    upper = estimate(_expected(hypothesis, by_seed)).upper
    negligible = upper is not None and upper < hypothesis.negligible
    if p is not None and p <= 0.05:
        return "supported, negligible" if negligible else "supported"
    return "refuted" if negligible else "undecided"
