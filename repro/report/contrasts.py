"""Contrasts: a sum of measures over models, what was expected of it, and the one judge of all.

The verdicts on MMCL + SSL against MMCL, the paper's claims, the hypotheses of studies, their
effects and the comparison of one's own run are contrasts. docs/method.md has the rules.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from repro.intervals import Interval, student
from repro.report.cells import CLEANCLIP
from repro.report.measures import Evaluations, Models, Quantity, Value
from repro.spec import CleanSize, Dataset, Loss

FEWEST_SEEDS = 3
"""Of fewer seeds there is neither an interval nor a test."""
LEVEL = 0.05
"""Of a one-sided test, and the largest q value of an effect that counts as decided."""


class Verdict(StrEnum):
    """What is said of a contrast."""

    REFUTED = "refuted"
    NOT_TESTED = "not tested"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    INCOMPLETE = "incomplete"
    DIRECTION = "direction only"
    NEGLIGIBLE = "supported, negligible"
    SMALLER = "supported, smaller than the paper's"
    SUPPORTED = "supported"
    LIKE_PAPER = "supported, of the paper's size"


SUPPORTING = (Verdict.NEGLIGIBLE, Verdict.SMALLER, Verdict.SUPPORTED, Verdict.LIKE_PAPER)
"""Verdicts for what was expected, the weakest first."""
ABOVE: Interval = (0.0, math.inf)
BELOW: Interval = (-math.inf, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    interval: Interval | None
    """Student's, 95%, two-sided; None for fewer than FEWEST_SEEDS seeds, as the next two."""
    lower: float | None
    """One-sided 95% limit; `lower` to `upper` is also the two-sided interval at 90%."""
    upper: float | None
    seeds: int
    by_seed: dict[int, float]
    at_least: bool
    """Whether the value of some seed is a lower bound, because the grid of rates ends too early."""
    at_most: bool
    """Whether that of some seed is an upper bound."""

    @property
    def limits(self) -> Interval | None:
        """The one-sided limits, infinite where values are bounds; None for too few seeds."""
        if self.lower is None or self.upper is None:
            return None
        return (
            -math.inf if self.at_most else self.lower,
            math.inf if self.at_least else self.upper,
        )


@dataclass(frozen=True)
class Contrast:
    """A sum of weight times measure over models, one value a seed, and what is expected of it."""

    measure: Quantity
    terms: Mapping[Models, float]
    """Weight of the measure of each kind of models."""
    expect: Interval = ABOVE
    """Means that support it."""
    counts: Interval = ABOVE
    """A mean that is surely outside refutes it: it ends at the smallest difference that counts."""
    paper: Sequence[float] = ()
    """The paper's values, whose mean is compared with a mean over several settings."""
    elsewhere: bool = False
    """Whether its numbers belong to other data than ours, which can show a direction only."""
    family: str = ""
    """The contrasts of a family are corrected for each other."""
    level: float = LEVEL
    """Of the one-sided test."""

    def sides(self, evaluations: Evaluations) -> list[dict[int, Value]]:
        """The measure of each term, and last the sum, by seed; of the seeds that have all."""
        values = [evaluations.values(models, self.measure) for models in self.terms]
        seeds = [seed for seed in values[0] if all(seed in of for of in values)]
        sides = [{seed: of[seed] for seed in seeds} for of in values]
        total = dict.fromkeys(seeds, Value(0.0))
        for side, weight in zip(sides, self.terms.values(), strict=True):
            for seed, value in side.items():
                total[seed] = total[seed].plus(value.times(weight))
        return [*sides, total]

    def p(self, values: Iterable[float]) -> float | None:
        """One-sided p value of a mean on the expected side of zero."""
        sign = 1 if self.expect == ABOVE else -1
        return p_above([sign * value for value in values])


def difference(
    mmcl: tuple[str, ...],
    mmcl_ssl: tuple[str, ...],
    dataset: Dataset,
    size: CleanSize | None,
    loss: Loss = CLEANCLIP,
) -> dict[Models, float]:
    """Terms of MMCL + SSL less MMCL, from an arm each, or from several of other seeds."""
    return {
        Models(mmcl, "mmcl", dataset, size, loss): -1.0,
        Models(mmcl_ssl, "mmcl_ssl", dataset, size, loss): 1.0,
    }


def judge(contrast: Contrast, limits: Interval | None, p: float | None = None) -> Verdict:
    """The verdict on a contrast whose mean surely lies within `limits`, None for too few seeds.

    `p` is that of a test which has to be significant too, after its correction; None without one.
    """
    if limits is None:
        return Verdict.UNDECIDED
    significant = p is not None and p <= contrast.level
    small = _outside(limits, contrast.counts)
    expected = _inside(limits, contrast.expect)
    if contrast.elsewhere and (expected or _inside(limits, contrast.counts)):
        return Verdict.DIRECTION
    if not expected or not (significant or p is None):
        return Verdict.REFUTED if small and not significant else Verdict.UNDECIDED
    if small:
        return Verdict.NEGLIGIBLE
    if contrast.paper and limits[0] >= fmean(contrast.paper):
        return Verdict.LIKE_PAPER
    if contrast.paper and limits[1] < min(contrast.paper):
        return Verdict.SMALLER
    return Verdict.SUPPORTED


def _inside(limits: Interval, band: Interval) -> bool:
    return band[0] <= limits[0] and limits[1] <= band[1]


def _outside(limits: Interval, band: Interval) -> bool:
    return limits[1] < band[0] or band[1] < limits[0]


def estimate(by_seed: Mapping[int, Value], level: float = LEVEL) -> Estimate:
    """The mean over seeds with Student's interval and one-sided limits at 1 - `level`."""
    values = {seed: value.value for seed, value in by_seed.items()}
    known = list(values.values())
    interval, lower, upper = None, None, None
    if len(known) >= FEWEST_SEEDS:
        interval = student(known, 0.95)
        lower, upper = student(known, 1 - 2 * level)
    return Estimate(
        mean=fmean(known),
        interval=interval,
        lower=lower,
        upper=upper,
        seeds=len(values),
        by_seed=values,
        at_least=any(value.at_least for value in by_seed.values()),
        at_most=any(value.at_most for value in by_seed.values()),
    )


def mean_of(estimates: Sequence[Estimate], level: float = LEVEL) -> Estimate | None:
    """The mean of several for each seed that all have; None without such a seed."""
    at_least = any(of.at_least for of in estimates)
    at_most = any(of.at_most for of in estimates)
    means = {}
    for seed in estimates[0].by_seed:
        if all(seed in of.by_seed for of in estimates):
            mean = fmean(of.by_seed[seed] for of in estimates)
            means[seed] = Value(mean, at_least, at_most)
    return estimate(means, level) if means else None


def p_above(values: Collection[float]) -> float | None:
    """One-sided p of Student's test that the mean is above zero; None for too few values."""
    if len(values) < FEWEST_SEEDS:
        return None
    mean = fmean(values)
    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return float(mean <= 0)
    return float(stdtr(len(values) - 1, -mean / error))


def holm(ps: Iterable[float | None]) -> list[float | None]:
    """Holm's correction; a test that could not be made (None) counts in the family."""
    all_ps = pd.Series(list(ps), dtype=float)
    ordered = all_ps.dropna().sort_values()
    # Tests that are left, the smallest p first.
    left = len(all_ps) - np.arange(len(ordered))
    corrected = (ordered * left).clip(upper=1).cummax()
    return [corrected.get(place) for place in all_ps.index]


class Tested(NamedTuple):
    """What the seeds say of a contrast."""

    sides: list[dict[int, Value]]
    """As `Contrast.sides` has them."""
    p: float | None
    p_holm: float | None
    """Corrected over its family."""

    @property
    def total(self) -> dict[int, Value]:
        """The sum by seed."""
        return self.sides[-1]


def tested(contrasts: Sequence[Contrast], evaluations: Evaluations) -> list[Tested]:
    """The values of contrasts and their tests, corrected within each family."""
    sides = [contrast.sides(evaluations) for contrast in contrasts]
    ps: list[float | None] = []
    for contrast, of in zip(contrasts, sides, strict=True):
        total = of[-1]
        ps.append(contrast.p(value.value for value in total.values()))

    families: dict[str, list[int]] = defaultdict(list)
    for place, contrast in enumerate(contrasts):
        families[contrast.family].append(place)
    corrected: dict[int, float | None] = {}
    for places in families.values():
        of_family = holm(ps[place] for place in places)
        corrected |= zip(places, of_family, strict=True)
    return [Tested(of, ps[place], corrected[place]) for place, of in enumerate(sides)]


@dataclass
class Effect:
    """Mean of differences that are paired over seeds, without an expected side."""

    value: float
    ci: Interval
    """Student's."""
    n: int
    """Seeds."""
    undecided: bool
    """Whether the interval includes zero."""
    p: float | None = None
    """Two-sided; None where every difference is exactly zero, as of models that two variants
    share.
    """
    q: float | None = None
    """By Benjamini and Hochberg (1995); set by `set_q_values`, over all effects of the report."""


@dataclass(frozen=True)
class Family:
    """The effects over which q values are taken."""

    tested: int
    """Distinct effects with a p value."""
    intervals_beyond_zero: int
    by_chance: float
    """Intervals that would leave zero out if no effect were real."""
    decided: int
    """Effects with a q value of at most LEVEL."""


def effect(contrast: Contrast, evaluations: Evaluations, confidence: float) -> Effect | None:
    """The effect of a choice, judged on the side of its mean; None for fewer than FEWEST_SEEDS."""
    total = contrast.sides(evaluations)[-1]
    known = [value.value for value in total.values()]
    if len(known) < FEWEST_SEEDS:
        return None
    mean = fmean(known)
    ends = student(known, confidence)
    towards = [math.copysign(value, value * mean) for value in known]
    # Models that are the same have no test.
    p = 2 * (p_above(towards) or 0.0) if any(known) else None
    side = ABOVE if mean > 0 else BELOW
    on_side = replace(contrast, expect=side, counts=side, level=1 - confidence)
    verdict = judge(on_side, ends, 1.0 if p is None else p)
    return Effect(mean, ends, len(known), undecided=verdict is Verdict.UNDECIDED, p=p)


def set_q_values(effects: Sequence[Effect], confidence: float) -> Family:
    """Give each effect that has a p value its q value.

    Effects of the same models, which several variants share, are equal and count once.
    """
    tested = {(effect.value, effect.ci): effect for effect in effects if effect.p is not None}
    corrected = false_discovery_control([effect.p for effect in tested.values()])
    q_values = dict(zip(tested, map(float, corrected), strict=True))
    for effect in effects:
        effect.q = q_values.get((effect.value, effect.ci))
    return Family(
        tested=len(tested),
        intervals_beyond_zero=sum(not effect.undecided for effect in tested.values()),
        by_chance=len(tested) * (1 - confidence),
        decided=sum(q <= LEVEL for q in q_values.values()),
    )
