"""Does an MMCL + SSL model resist CleanCLIP more than an MMCL model? Verdicts over seeds.

The rules are those of docs/rules.md; their numbers are `rules` in specs/claims.yaml. A difference
is MMCL + SSL less MMCL within a cell, one value a seed. Shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

import pandas as pd
from scipy.special import stdtr, stdtrit

from repro.intervals import Interval
from repro.report.format import label
from repro.report.judging.claims import Arms, Claims, MeasureRule, Rules
from repro.report.measures import (
    BOTH,
    MEASURES,
    CleanedModel,
    Context,
    Evaluations,
    Measure,
    Value,
)
from repro.report.points import AUTHORS
from repro.spec import CleanSize, Dataset, Objective

FEWEST_SEEDS = 3
"""Of fewer seeds there is neither an interval nor a test."""
AUTHORS_ARMS = Arms(mmcl_ssl=f"{AUTHORS}/", mmcl={AUTHORS: f"{AUTHORS}/"}, twin=None)
OWN = Arms(mmcl_ssl="/", mmcl={"own": "/"}, twin=None)
"""The runs of a report itself, which belong to no study and no variant."""
SUPPORTED = ("supported, negligible", "supported", "supported, of the paper's size")
"""Verdicts for the claim, the weakest first."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Control:
    """Does CleanCLIP work on the MMCL model of the cell?"""

    cleaned: int
    """Seeds on which some evaluation has an ASR at or below the threshold."""
    seeds: int
    loss: Estimate | None
    """Accuracy that the best such model has lost, as a share of its start's."""
    twin: Estimate | None
    """That loss less the loss of the never-poisoned twin at the same rate and step."""
    removes: bool
    """Whether it removes the backdoor on enough of the seeds."""
    holds: bool | None
    """Whether it also costs no more than finetuning the twin; None where that was not run."""
    reason: str


@dataclass(frozen=True, slots=True)
class Edge:
    """Best models that lie at an end of the grid of learning rates."""

    objective: Objective
    end: Literal["lowest", "highest"]
    seeds: int
    of: int


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """A measure in one cell, or pooled over the cells (then dataset and size are None)."""

    dataset: Dataset | None
    clean_size: CleanSize | None
    comparator: str
    """Which MMCL models."""
    mmcl: Estimate
    mmcl_ssl: Estimate
    difference: Estimate
    p: float | None
    """One-sided, of a difference above zero."""
    p_holm: float | None
    """Corrected over the cells."""
    alone: str
    """The verdict against this comparator."""
    verdict: str
    """The verdict against all comparators."""
    reason: str
    control: Control | None
    """None where the measures are pooled."""
    start_asr: dict[Objective, float]
    """ASR before cleaning, means over seeds."""
    weak_backdoor: bool
    cleaned: dict[Objective, int]
    """Seeds that reach the ASR threshold at some evaluation."""
    edge: list[Edge]


@dataclass(frozen=True, slots=True)
class MeasureVerdict:
    """A measure in all cells."""

    measure: str
    title: str
    unit: str
    negligible: float
    """The smallest difference that counts."""
    paper: float | None
    """The smallest difference of the paper."""
    fixed: str
    """When the rule was fixed, or "exploratory"."""
    cells: list[CellVerdict]
    """One a cell and comparator."""
    pooled: CellVerdict | None
    """Of the first comparator."""
    verdict: str
    """Of the pooled difference."""


@dataclass(frozen=True, slots=True)
class EqualRuns:
    """Runs of the two models with equal data, seed, learning rate and steps, at their end."""

    dataset: Dataset
    clean_size: CleanSize
    pairs: int
    more: int
    """Pairs in which the MMCL + SSL model has the higher ASR."""


@dataclass(frozen=True, slots=True)
class Secondary:
    """A comparison that was fixed with the rules and stands apart from the claims."""

    name: str
    why: str
    measures: list[MeasureVerdict]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All verdicts over seeds."""

    source: str | None
    """Study of the exploratory verdicts; None for the runs of this report."""
    seeds: list[int]
    exploratory: list[MeasureVerdict]
    equal_runs: list[EqualRuns]
    """Of the same runs."""
    confirmed: list[MeasureVerdict] | None
    """None until all planned seeds are archived."""
    confirmed_seeds: list[int]
    """Archived so far."""
    planned_seeds: list[int]
    secondary: list[Secondary]
    authors: list[MeasureVerdict]
    """Of the authors' points, which are of one training and name no learning rates."""


def estimate(by_seed: Mapping[int, float], at_least: bool = False, level: float = 0.05) -> Estimate:
    """The mean over seeds with Student's interval and one-sided limits at 1 - `level`."""
    values = list(by_seed.values())
    mean, interval, lower, upper = fmean(values), None, None, None
    if len(values) >= FEWEST_SEEDS:
        error = stdev(values) / math.sqrt(len(values))
        wide = error * float(stdtrit(len(values) - 1, 0.975))
        side = error * float(stdtrit(len(values) - 1, 1 - level))
        interval, lower, upper = (mean - wide, mean + wide), mean - side, mean + side
    return Estimate(mean, interval, lower, upper, len(values), dict(by_seed), at_least)


def p_above(values: Sequence[float]) -> float | None:
    """One-sided p of Student's test that the mean is above zero; None for too few values."""
    if len(values) < FEWEST_SEEDS:
        return None
    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if values[0] > 0 else 1.0
    return float(stdtr(len(values) - 1, -fmean(values) / error))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the p values that are there."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def positive_control(
    mmcl: Mapping[int, CleanedModel], twins: Mapping[int, CleanedModel], rules: Rules
) -> Control:
    """Whether CleanCLIP cleans MMCL models and costs them no more than their twins."""
    lost = {
        seed: 1 - float(model.best.accuracy) / model.start_accuracy
        for seed, model in mmcl.items()
        if model.best is not None
    }
    excess = {}
    for seed in sorted(mmcl.keys() & twins.keys()):
        model, twin, keys = mmcl[seed], twins[seed], ["learning_rate", "step"]
        of_twin = twin.points[[*keys, "accuracy"]]
        both = model.points.merge(of_twin, on=keys, suffixes=("", "_twin"))
        if (best := replace(model, points=both).best) is not None:
            kept = best.accuracy / model.start_accuracy
            excess[seed] = float(best.accuracy_twin / twin.start_accuracy - kept)
    loss = estimate(lost, level=rules.level) if lost else None
    twin_loss = estimate(excess, level=rules.level) if excess else None

    # Without a twin the paper's own control can still hold: hardly any accuracy is lost at all.
    judged = twin_loss if twins else loss
    upper = judged.upper if judged else None
    margin = f"{100 * rules.twin_margin:g}% of the accuracy"
    removes, holds = True, upper is not None and upper < rules.twin_margin
    if fmean(model.start_asr for model in mmcl.values()) <= next(iter(mmcl.values())).threshold:
        removes, reason = False, "the MMCL models have no backdoor"
    elif len(lost) < rules.cleaned_share * len(mmcl):
        removes, reason = False, f"MMCL models were cleaned on {len(lost)} of {len(mmcl)} seeds"
    elif holds:
        reason = f"loses less than {margin}" + " more than the twin" * bool(twins)
    elif not twins or upper is None:
        reason = "no never-poisoned twin at the same rates and steps"
        return Control(len(lost), len(mmcl), loss, twin_loss, removes, None, reason)
    else:
        reason = f"may lose {margin} more than the twin"
    return Control(len(lost), len(mmcl), loss, twin_loss, removes, removes and holds, reason)


def cell_verdicts(
    evaluations: Evaluations, arms: Arms, rules: Rules, context: Context, fixed: str
) -> list[MeasureVerdict]:
    """Every measure in every cell that has runs of both models."""
    places = [(name, cell) for name in arms.mmcl for cell in rules.cells]
    models = {
        (name, cell): both
        for name, cell in places
        if (both := evaluations.pair(arms.mmcl[name], arms.mmcl_ssl, *cell))["mmcl"].keys()
        & both["mmcl_ssl"].keys()
    }
    controls = {}
    for (name, cell), both in models.items():
        twins = evaluations.cleaned(arms.twin, *cell, "mmcl") if arms.twin else {}
        controls[name, cell] = positive_control(both["mmcl"], twins, rules)

    found = []
    for measure in MEASURES:
        rule = rules.measures[measure.name]
        cells: list[CellVerdict] = []
        pooled: list[CellVerdict] = []
        for name in arms.mmcl:
            measured = [
                cell_verdict
                for (of, cell), both in models.items()
                if of == name
                and (
                    cell_verdict := _measured(
                        measure, both, cell, name, controls[name, cell], rules, context
                    )
                )
            ]
            corrected = holm([cell.p for cell in measured])
            judged = [
                _judged(replace(cell, p_holm=p), measure, rule, rules.level)
                for cell, p in zip(measured, corrected, strict=True)
            ]
            cells += judged
            pooled += _pooled(judged, rule, rules.level)
        if cells:
            pooled = _against_all(pooled)
            found.append(
                MeasureVerdict(
                    measure=measure.name,
                    title=measure.title,
                    unit=measure.unit,
                    negligible=rule.negligible,
                    paper=rule.paper,
                    fixed=fixed,
                    cells=_against_all(cells),
                    pooled=pooled[0] if pooled else None,
                    verdict=pooled[0].verdict if pooled else "not run",
                )
            )
    return found


def _measured(
    measure: Measure,
    models: Mapping[Objective, Mapping[int, CleanedModel]],
    cell: tuple[Dataset, CleanSize],
    comparator: str,
    control: Control,
    rules: Rules,
    context: Context,
) -> CellVerdict | None:
    """A cell without its verdict; None where no seed has the measure of both models."""
    sides: list[dict[int, Value]] = [
        {
            seed: value
            for seed, model in sorted(models[of].items())
            if (value := measure.of(model, context)) is not None
        }
        for of in BOTH
    ]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if not seeds:
        return None
    mmcl, ssl = ({seed: side[seed] for seed in seeds} for side in sides)
    at_least = any(ssl[seed].at_least or mmcl[seed].at_most for seed in seeds)
    difference = {seed: ssl[seed].value - mmcl[seed].value for seed in seeds}
    starts = {of: fmean(model.start_asr for model in models[of].values()) for of in BOTH}
    return CellVerdict(
        dataset=cell[0],
        clean_size=cell[1],
        comparator=comparator,
        mmcl=_side(mmcl, rules.level),
        mmcl_ssl=_side(ssl, rules.level),
        difference=estimate(difference, at_least, rules.level),
        p=p_above(list(difference.values())),
        p_holm=None,
        alone="",
        verdict="",
        reason="",
        control=control,
        start_asr=starts,
        weak_backdoor=min(starts.values()) < rules.weak_start,
        cleaned={of: sum(m.best is not None for m in models[of].values()) for of in BOTH},
        edge=[edge for of in BOTH for edge in _edges(of, models[of])],
    )


def _side(values: Mapping[int, Value], level: float) -> Estimate:
    at_least = any(value.at_least for value in values.values())
    return estimate({seed: value.value for seed, value in values.items()}, at_least, level)


def _edges(objective: Objective, models: Mapping[int, CleanedModel]) -> list[Edge]:
    rates = [
        (model.best.learning_rate, model.ends.learning_rate)
        for model in models.values()
        if model.best is not None and len(model.ends) > 1
    ]
    at_ends = {
        "lowest": sum(best == grid.iloc[0] for best, grid in rates),
        "highest": sum(best == grid.iloc[-1] for best, grid in rates),
    }
    ends: tuple[Literal["lowest", "highest"], ...] = ("lowest", "highest")
    return [Edge(objective, end, int(at_ends[end]), len(models)) for end in ends if at_ends[end]]


def _judged(cell: CellVerdict, measure: Measure, rule: MeasureRule, level: float) -> CellVerdict:
    control = cell.control
    assert control is not None
    if cell.difference.seeds < FEWEST_SEEDS:
        return _told(cell, "undecided", f"fewer than {FEWEST_SEEDS} seeds")
    # The first measures need only that CleanCLIP removes the backdoor of the MMCL model.
    if not control.removes or (measure.price and not control.holds):
        word = "not run" if control.holds is None else "failed"
        return _told(cell, f"not tested: control {word}", control.reason)
    return _told(cell, _verdict(cell, rule, level), _reason(cell))


def _told(cell: CellVerdict, verdict: str, reason: str) -> CellVerdict:
    return replace(cell, alone=verdict, verdict=verdict, reason=reason)


def _verdict(cell: CellVerdict, rule: MeasureRule, level: float) -> str:
    difference = cell.difference
    if difference.upper is None or difference.lower is None or cell.p_holm is None:
        return "undecided"
    small = difference.upper < rule.negligible and not difference.at_least
    if cell.p_holm <= level:
        if small:
            return SUPPORTED[0]
        of_papers_size = rule.paper is not None and difference.lower >= rule.paper
        return SUPPORTED[2] if of_papers_size else SUPPORTED[1]
    # A lower bound cannot show that a difference is small.
    return "refuted" if small else "undecided"


def _reason(cell: CellVerdict) -> str:
    return "at least: the grid of learning rates ends too early" if cell.difference.at_least else ""


def _pooled(cells: Sequence[CellVerdict], rule: MeasureRule, level: float) -> list[CellVerdict]:
    """The mean over the cells for each seed that all of them have; nothing without such a seed."""
    by_cell = [cell.difference.by_seed for cell in cells]
    seeds = [seed for seed in (by_cell or [{}])[0] if all(seed in of for of in by_cell)]
    if not seeds:
        return []

    def mean(estimates: Sequence[Estimate]) -> Estimate:
        by_seed = {seed: fmean(e.by_seed[seed] for e in estimates) for seed in seeds}
        return estimate(by_seed, any(e.at_least for e in estimates), level)

    difference = mean([cell.difference for cell in cells])
    p = p_above(list(difference.by_seed.values()))
    pooled = replace(
        cells[0],
        dataset=None,
        clean_size=None,
        mmcl=mean([cell.mmcl for cell in cells]),
        mmcl_ssl=mean([cell.mmcl_ssl for cell in cells]),
        difference=difference,
        p=p,
        p_holm=p,
        control=None,
        start_asr={of: fmean(cell.start_asr[of] for cell in cells) for of in BOTH},
        weak_backdoor=any(cell.weak_backdoor for cell in cells),
        cleaned={of: sum(cell.cleaned[of] for cell in cells) for of in BOTH},
        edge=[],
    )
    untested = [cell for cell in cells if cell.alone.startswith("not tested")]
    if not untested:
        return [_told(pooled, _verdict(pooled, rule, level), _reason(pooled))]
    worst = next((cell for cell in untested if "failed" in cell.alone), untested[0])
    where = ", ".join(f"{label(cell.dataset)} {label(cell.clean_size)}" for cell in untested)
    return [_told(pooled, worst.alone, f"{worst.reason} ({where})")]


def _against_all(cells: Sequence[CellVerdict]) -> list[CellVerdict]:
    """A verdict other than "undecided" holds only if it holds against every comparator."""
    combined = []
    for cell in cells:
        alone = {
            other.comparator: other.alone
            for other in cells
            if (other.dataset, other.clean_size) == (cell.dataset, cell.clean_size)
        }
        verdicts = list(alone.values())
        untested = [verdict for verdict in verdicts if verdict.startswith("not tested")]
        if untested:
            verdict = untested[0]
        elif all(verdict in SUPPORTED for verdict in verdicts):
            verdict = min(verdicts, key=SUPPORTED.index)
        else:
            verdict = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
        reason = cell.reason
        if verdict != cell.alone:
            reason = "; ".join(f"against {name}: {alone[name]}" for name in alone)
        combined.append(replace(cell, verdict=verdict, reason=reason))
    return combined


def equal_runs(evaluations: Evaluations, arms: Arms, rules: Rules) -> list[EqualRuns]:
    """In how many pairs of runs of equal rate and steps the MMCL + SSL model keeps more ASR."""
    found = []
    for dataset, size in rules.cells:
        first = next(iter(arms.mmcl.values()))
        mmcl, ssl = evaluations.pair(first, arms.mmcl_ssl, dataset, size).values()
        keys = ["learning_rate", "step"]
        pairs = [
            mmcl[seed].ends.merge(ssl[seed].ends, on=keys, suffixes=("", "_ssl"))
            for seed in sorted(mmcl.keys() & ssl.keys())
        ]
        if pairs:
            table = pd.concat(pairs)
            more = int((table.asr_ssl > table.asr).sum())
            found.append(EqualRuns(dataset, size, len(table), more))
    return found


def verdicts(evaluations: Evaluations, claims: Claims, profile: str) -> Verdicts:
    """All verdicts over seeds of a profile.

    `evaluations`: of the profile's own runs (study and variant ""), of its studies, and of the
    authors. The exploratory verdicts are of the archived study; without it, of the own runs.
    """
    rules = claims.rules
    context = Context(rules.rate.get(profile), rules.hull_cap)
    arms = claims.comparisons.exploratory.get(profile)
    if arms is None or arms.study not in evaluations.studies:
        arms = OWN
    if arms.twin not in evaluations.arms:
        arms = arms.model_copy(update={"twin": None})
    exploratory = cell_verdicts(evaluations, arms, rules, context, "exploratory")

    planned = rules.seeds.get(profile, [])
    confirming = claims.comparisons.confirmed.get(profile)
    done = _complete_seeds(evaluations, confirming.study, planned) if confirming else []
    confirmed, secondary = None, []
    if confirming and planned and done == sorted(planned):
        confirmed = cell_verdicts(evaluations, confirming, rules, context, rules.fixed)
        for name, rule in rules.secondary.items():
            arm = f"{rule.study}/{rule.variant}"
            objectives = {objective for of, _, objective in evaluations.rows if of == arm}
            ssl = arm if "mmcl_ssl" in objectives else confirming.mmcl_ssl
            beside = Arms(mmcl_ssl=ssl, mmcl={rule.variant: arm}, twin=None)
            if objectives:
                judged = cell_verdicts(evaluations, beside, rules, context, rules.fixed)
                secondary.append(Secondary(name, rule.why, judged))
    seeds = {seed for m in exploratory for cell in m.cells for seed in cell.difference.by_seed}
    return Verdicts(
        source=arms.study or None,
        seeds=sorted(seeds),
        exploratory=exploratory,
        equal_runs=equal_runs(evaluations, arms, rules),
        confirmed=confirmed,
        confirmed_seeds=done,
        planned_seeds=list(planned),
        secondary=secondary,
        authors=cell_verdicts(evaluations, AUTHORS_ARMS, rules, context, "the authors' points"),
    )


def _complete_seeds(evaluations: Evaluations, study: str, planned: Sequence[int]) -> list[int]:
    """Seeds of those planned with as many runs as the one that has most."""
    of = [rows for (arm, _, _), rows in evaluations.rows.items() if arm.split("/")[0] == study]
    if not of:
        return []
    rows = pd.concat(of)
    runs = rows[rows.seed.isin(planned)].groupby("seed").run.nunique()
    return sorted(int(seed) for seed in runs.index[runs == runs.max()])
