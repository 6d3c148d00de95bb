"""Means, intervals and effects over seeds, with q values; shares are fractions.

An effect is a mean of differences that are paired over seeds. Its p value is Student's, two-sided.
Effects of all studies are exploratory: their q values are those of Benjamini and Hochberg (1995)
over all effects that the report lists (docs/rules.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd
from scipy.stats import false_discovery_control

from repro.intervals import Interval, student
from repro.report.verdicts import FEWEST_SEEDS, p_above

DECIDED_Q = 0.05
"""Largest q value of an effect that counts as decided."""


@dataclass(frozen=True)
class Measured:
    """A measure over seeds."""

    values: list[float | None]
    """One value a seed; None where it was not measured."""
    mean: float | None
    """Over the seeds that have a value."""
    ci: Interval | None
    """Student's, within the possible values; None for fewer than FEWEST_SEEDS seeds."""


@dataclass
class Effect:
    """Mean of differences that are paired over seeds."""

    value: float
    ci: Interval
    """Student's."""
    n: int
    """Seeds."""
    undecided: bool
    """Whether the interval includes zero."""
    p: float | None = None
    """None where every difference is exactly zero, as of models that two variants share."""
    q: float | None = None
    """Set by `set_q_values`, over all effects of the report."""


@dataclass(frozen=True)
class Family:
    """The effects over which q values are taken."""

    tested: int
    """Distinct effects with a p value."""
    intervals_beyond_zero: int
    by_chance: float
    """Intervals that would leave zero out if no effect were real."""
    decided: int
    """Effects with a q value of at most DECIDED_Q."""


def measured(values: pd.Series, confidence: float, *, negative: bool = False) -> Measured:
    """Mean and interval of a share over seeds; the interval ends at 1, and at 0 if the share cannot
    be `negative`.
    """
    known = values.dropna().tolist()
    ends = student(known, confidence) if len(known) >= FEWEST_SEEDS else None
    return Measured(
        values=[None if math.isnan(value) else value for value in values.tolist()],
        mean=fmean(known) if known else None,
        ci=ends and (ends[0] if negative else max(0.0, ends[0]), min(1.0, ends[1])),
    )


def effect(differences: pd.Series, confidence: float) -> Effect | None:
    """Effect of a choice from its differences by seed; None for fewer than FEWEST_SEEDS."""
    known = differences.dropna().tolist()
    if len(known) < FEWEST_SEEDS:
        return None
    ends, mean = student(known, confidence), fmean(known)
    # Two-sided, by the side of the mean. Models that are the same have no test.
    towards = [math.copysign(value, value * mean) for value in known]
    p = 2 * (p_above(towards) or 0.0) if any(known) else None
    return Effect(mean, ends, len(known), undecided=ends[0] <= 0 <= ends[1], p=p)


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
        decided=sum(q <= DECIDED_Q for q in q_values.values()),
    )
