"""Means, intervals and effects over seeds, with q values; shares are fractions.

An effect is a mean of differences that are paired over seeds. Its p value is Student's, two-sided.
Effects of all studies are exploratory: their q values are those of Benjamini and Hochberg (1995)
over all effects that the report lists (docs/rules.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from statistics import fmean, stdev
from typing import Any, TypeVar

from scipy.stats import false_discovery_control, t

from repro.intervals import Interval

FEWEST_SEEDS = 3
"""Of fewer seeds neither interval nor effect is given."""
DECIDED_Q = 0.05
"""Largest q value of an effect that counts as decided."""
Tree = TypeVar("Tree")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure over seeds."""

    values: list[float | None]
    """One value a seed; None where it was not measured."""
    mean: float | None
    """Over the seeds that have a value."""
    ci: Interval | None
    """Student's, within the possible values; None for fewer than FEWEST_SEEDS seeds."""


@dataclass(frozen=True, slots=True)
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
    """By `with_q_values`, over all effects of the report."""


@dataclass(frozen=True, slots=True)
class Family:
    """The effects over which q values are taken."""

    tested: int
    """Distinct effects with a p value."""
    intervals_beyond_zero: int
    by_chance: float
    """Intervals that would leave zero out if no effect were real."""
    decided: int
    """Effects with a q value of at most DECIDED_Q."""


def measured(
    values: Sequence[float | None],
    confidence: float,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Measured:
    """Mean and interval of a measure over seeds; the interval is cut at `lowest` and `highest`."""
    known = [value for value in values if value is not None]
    ends = _student(known, confidence)
    return Measured(
        values=list(values),
        mean=fmean(known) if known else None,
        ci=ends and (max(lowest, ends[0]), min(highest, ends[1])),
    )


def effect(differences: Sequence[float], confidence: float) -> Effect | None:
    """Effect of a choice from its differences, one a seed; None for fewer than FEWEST_SEEDS."""
    ends = _student(differences, confidence)
    if ends is None:
        return None

    centre, p = fmean(differences), None
    if any(differences):
        error = stdev(differences) / math.sqrt(len(differences))
        p = 2 * float(t.sf(abs(centre) / error, len(differences) - 1)) if error else 0.0
    return Effect(
        value=centre,
        ci=ends,
        n=len(differences),
        undecided=ends[0] <= 0 <= ends[1],
        p=p,
    )


def with_q_values(tree: Tree, confidence: float) -> tuple[Tree, Family]:
    """The tree of dataclasses, mappings and lists, with a q value in each effect that has a p
    value.

    Effects of the same models, which several variants share, are equal and count once.
    """
    tested = {(item.value, item.ci): item for item in _effects(tree) if item.p is not None}
    values = [item.p for item in tested.values()]
    corrected = false_discovery_control(values) if values else []
    q_values = dict(zip(tested, map(float, corrected), strict=True))
    beyond_zero = sum(not item.undecided for item in tested.values())
    family = Family(
        tested=len(tested),
        intervals_beyond_zero=beyond_zero,
        by_chance=len(tested) * (1 - confidence),
        decided=sum(q <= DECIDED_Q for q in q_values.values()),
    )
    return _with_q(tree, q_values), family


def _student(values: Sequence[float], confidence: float) -> Interval | None:
    if len(values) < FEWEST_SEEDS:
        return None
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * stdev(values)
    half /= math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _effects(node: Any) -> Iterator[Effect]:
    if isinstance(node, Effect):
        yield node
    elif is_dataclass(node):
        for field in fields(node):
            yield from _effects(getattr(node, field.name))
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _effects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _effects(value)


def _with_q(node: Any, q_values: Mapping[Any, float]) -> Any:
    if isinstance(node, Effect):
        return replace(node, q=q_values.get((node.value, node.ci))) if node.p is not None else node
    if is_dataclass(node) and not isinstance(node, type):
        parts = {field.name: getattr(node, field.name) for field in fields(node)}
        return replace(node, **{name: _with_q(part, q_values) for name, part in parts.items()})
    if isinstance(node, Mapping):
        return {key: _with_q(value, q_values) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_q(value, q_values) for value in node]
    return node
