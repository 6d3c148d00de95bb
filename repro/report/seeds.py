"""Over seeds: the difference of two arms, its estimate, and the one judge of all.

A frame of values comes from `measured` in repro/report/measures.py: value, low and high of every
measure of every model. docs/method.md has the rules.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr

from repro.intervals import Interval, student
from repro.report.cells import CLEANCLIP
from repro.report.measures import KEYS, Models
from repro.spec import CleanSize, Dataset, Loss

FEWEST_SEEDS = 3
"""Of fewer seeds there is neither an interval nor a test."""
LEVEL = 0.05
"""Of a one-sided test."""
SUM = "sum"
"""The column of a contrast beside those of its terms."""
ENDS = ["value", "low", "high"]


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


class Term(NamedTuple):
    """A part of a contrast: which models, and the weight of their measure."""

    models: Models
    weight: float


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


def difference(
    mmcl: Sequence[str],
    mmcl_ssl: Sequence[str],
    dataset: Dataset,
    size: CleanSize | None,
    loss: Loss = CLEANCLIP,
) -> dict[str, Term]:
    """Terms of MMCL + SSL less MMCL, from an arm each, or from several of other seeds."""
    return {
        "mmcl": Term(Models(tuple(mmcl), "mmcl", dataset, size, loss), -1.0),
        "mmcl_ssl": Term(Models(tuple(mmcl_ssl), "mmcl_ssl", dataset, size, loss), 1.0),
    }


def side(values: pd.DataFrame, of: Models) -> pd.DataFrame:
    """All measures of some models: rows by measure and seed, columns ENDS."""
    place = (of.dataset, of.clean_size or "", of.loss if of.clean_size else "", of.objective)
    found = [values.loc[(arm, *place)] for arm in of.arms if (arm, *place) in values.index]
    return pd.concat(found).sort_index() if found else values.iloc[:0].droplevel(KEYS)


def contrast(values: pd.DataFrame, terms: Mapping[str, Term]) -> pd.DataFrame:
    """The sum of weight times measure over models, of the seeds that have all of them.

    Rows by measure and seed; columns ENDS below the name of each term, and below SUM.
    """
    sides = {name: side(values, term.models) for name, term in terms.items()}
    both = pd.concat(sides, axis=1, join="inner")
    total = pd.DataFrame(0.0, both.index, ENDS)
    for name, term in terms.items():
        weighted = term.weight * both[name]
        if term.weight < 0:
            weighted = weighted.rename(columns={"low": "high", "high": "low"})
        total += weighted[ENDS]
    return pd.concat({**{name: both[name] for name in terms}, SUM: total}, axis=1)


def pooled(found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean over several contrasts, for each measure and seed that all of them have."""
    every = pd.concat(found)
    groups = every.groupby(level=["measure", "seed"], sort=False)
    return groups.mean()[groups.size() == len(found)]


def seeds_of(found: pd.DataFrame, measure: str, name: str = SUM) -> pd.DataFrame:
    """One measure of a contrast or of one of its terms: a row a seed, columns ENDS."""
    of = found[name]
    return of.loc[measure] if measure in of.index else of.iloc[:0].droplevel(0)


def estimate(by_seed: pd.DataFrame, level: float = LEVEL) -> Estimate:
    """The mean over seeds with Student's interval and one-sided limits at 1 - `level`."""
    known = by_seed.value.tolist()
    interval, lower, upper = None, None, None
    if len(known) >= FEWEST_SEEDS:
        interval = student(known, 0.95)
        lower, upper = student(known, 1 - 2 * level)
    return Estimate(
        mean=fmean(known),
        interval=interval,
        lower=lower,
        upper=upper,
        seeds=len(known),
        by_seed={int(seed): value for seed, value in by_seed.value.items()},
        at_least=bool(np.isposinf(by_seed.high).any()),
        at_most=bool(np.isneginf(by_seed.low).any()),
    )


def p_above(values: Sequence[float]) -> float | None:
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


@dataclass(frozen=True)
class Expected:
    """What is expected of a mean over seeds."""

    side: Interval = ABOVE
    """Means that support it."""
    counts: Interval = ABOVE
    """A mean that is surely outside refutes it: it ends at the smallest difference that counts."""
    paper: Sequence[float] = ()
    """The paper's values, whose mean is compared with a mean over several settings."""
    elsewhere: bool = False
    """Whether its numbers belong to other data than ours, which can show a direction only."""
    level: float = LEVEL
    """Of the one-sided test."""


def judge(expected: Expected, limits: Interval | None, p: float | None = None) -> Verdict:
    """The verdict on a mean that surely lies within `limits`, None for too few seeds.

    `p` is that of a test which has to be significant too, after its correction; None without one.
    """
    if limits is None:
        return Verdict.UNDECIDED
    significant = p is not None and p <= expected.level
    small = _outside(limits, expected.counts)
    inside = _inside(limits, expected.side)
    if expected.elsewhere and (inside or _inside(limits, expected.counts)):
        return Verdict.DIRECTION
    if not inside or not (significant or p is None):
        return Verdict.REFUTED if small and not significant else Verdict.UNDECIDED
    if small:
        return Verdict.NEGLIGIBLE
    if expected.paper and limits[0] >= fmean(expected.paper):
        return Verdict.LIKE_PAPER
    if expected.paper and limits[1] < min(expected.paper):
        return Verdict.SMALLER
    return Verdict.SUPPORTED


def _inside(limits: Interval, band: Interval) -> bool:
    return band[0] <= limits[0] and limits[1] <= band[1]


def _outside(limits: Interval, band: Interval) -> bool:
    return limits[1] < band[0] or band[1] < limits[0]
