"""Does an MMCL + SSL model resist CleanCLIP more than an MMCL model? Verdicts over seeds.

The rules are those of docs/rules.md; their numbers are `rules` in specs/claims.yaml. A difference
is MMCL + SSL less MMCL within a cell, one value a seed. Shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd
from scipy.special import stdtr, stdtrit

from repro.intervals import Interval
from repro.report.format import label
from repro.report.judging.claims import Arms, Claims, MeasureRule, Rules
from repro.report.measures import (
    MEASURES,
    CleanedModel,
    Context,
    Evaluations,
    Measure,
    Pair,
    best_under_cap,
)
from repro.report.numbers.cells import OBJECTIVES
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


class Comparison(NamedTuple):
    """The models of a cell with those of one comparator, and the control of these."""

    dataset: Dataset
    clean_size: CleanSize
    comparator: str
    pair: Pair
    control: Control


@dataclass(frozen=True, slots=True, kw_only=True)
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
    p_holm: float | None = None
    """Corrected over the cells."""
    alone: str = ""
    """The verdict against this comparator."""
    verdict: str = ""
    """The verdict against all comparators."""
    reason: str = ""
    control: Control | None
    """None where the measures are pooled."""
    start_asr: dict[Objective, float]
    """ASR before cleaning, means over seeds."""
    weak_backdoor: bool
    edge: list[dict[str, Any]]
    """By `objective` and `end` of the grid of learning rates ("lowest", "highest"), on how many
    `seeds` of how many the best model lies there.
    """


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
class Verdicts:
    """All verdicts over seeds."""

    source: str | None
    """Study of the exploratory verdicts; None for the runs of this report."""
    seeds: list[int]
    exploratory: list[MeasureVerdict]
    equal_runs: list[dict[str, Any]]
    """By cell, of how many `pairs` of the same runs with equal data, seed, learning rate and steps
    the MMCL + SSL model ends with `more` ASR.
    """
    confirmed: list[MeasureVerdict] | None
    """None until all planned seeds are archived."""
    confirmed_seeds: list[int]
    """Archived so far."""
    planned_seeds: list[int]
    secondary: list[dict[str, Any]]
    """Comparisons that were fixed with the rules and stand apart from the claims: `name`, `why`,
    `measures`.
    """
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
    lost, excess = {}, {}
    for seed, model in mmcl.items():
        if model.best is not None:
            lost[seed] = 1 - float(model.best.accuracy) / model.start.accuracy
        if twin := twins.get(seed):
            # The best among the rates and steps at which both were evaluated.
            keys = ["learning_rate", "step"]
            both = model.points.merge(
                twin.points[[*keys, "accuracy"]], on=keys, suffixes=("", "_twin")
            )
            if (best := best_under_cap(both, model.threshold)) is not None:
                kept = best.accuracy / model.start.accuracy
                excess[seed] = float(best.accuracy_twin / twin.start.accuracy - kept)
    loss = estimate(lost, level=rules.level) if lost else None
    twin_loss = estimate(excess, level=rules.level) if excess else None

    # Without a twin the paper's own control can still hold: hardly any accuracy is lost at all.
    judged = twin_loss if twins else loss
    upper = judged.upper if judged else None
    margin = f"{100 * rules.twin_margin:g}% of the accuracy"
    control = partial(Control, len(lost), len(mmcl), loss, twin_loss)
    if fmean(model.start.asr for model in mmcl.values()) <= next(iter(mmcl.values())).threshold:
        return control(False, False, "the MMCL models have no backdoor")
    if len(lost) < rules.cleaned_share * len(mmcl):
        reason = f"MMCL models were cleaned on {len(lost)} of {len(mmcl)} seeds"
        return control(False, False, reason)
    if upper is not None and upper < rules.twin_margin:
        return control(
            True, True, f"loses less than {margin}" + " more than the twin" * bool(twins)
        )
    if twins and upper is not None:
        return control(True, False, f"may lose {margin} more than the twin")
    return control(True, None, "no never-poisoned twin at the same rates and steps")


def cell_verdicts(
    evaluations: Evaluations, arms: Arms, rules: Rules, context: Context, fixed: str
) -> list[MeasureVerdict]:
    """Every measure in every cell that has runs of both models."""
    comparisons = []
    for name, arm in arms.mmcl.items():
        for cell in rules.cells:
            pair = evaluations.pair(arm, arms.mmcl_ssl, *cell)
            if pair["mmcl"].keys() & pair["mmcl_ssl"].keys():
                twins = evaluations.cleaned(arms.twin, *cell, "mmcl") if arms.twin else {}
                control = positive_control(pair["mmcl"], twins, rules)
                comparisons.append(Comparison(*cell, name, pair, control))

    verdicts = []
    for measure in MEASURES:
        rule = rules.measures[measure.name]
        every: list[CellVerdict] = []
        for name in arms.mmcl:
            measured = [
                cell
                for comparison in comparisons
                if comparison.comparator == name
                for cell in _measured(measure, comparison, rules, context)
            ]
            corrected = holm([cell.p for cell in measured])
            judged = [
                _judged(replace(cell, p_holm=p), measure, rule, rules.level)
                for cell, p in zip(measured, corrected, strict=True)
            ]
            every += [*judged, *_pooled(judged, rule, rules.level)]
        combined = _against_all(every)
        pooled = next((cell for cell in combined if cell.dataset is None), None)
        if cells := [cell for cell in combined if cell.dataset is not None]:
            verdicts.append(
                MeasureVerdict(
                    measure=measure.name,
                    title=measure.title,
                    unit=measure.unit,
                    negligible=rule.negligible,
                    paper=rule.paper,
                    fixed=fixed,
                    cells=cells,
                    pooled=pooled,
                    verdict=pooled.verdict if pooled else "not run",
                )
            )
    return verdicts


def _measured(
    measure: Measure, comparison: Comparison, rules: Rules, context: Context
) -> Iterator[CellVerdict]:
    """A cell without its verdict; nothing where no seed has the measure of both models."""
    pair = comparison.pair
    values = {objective: measure.of_seeds(pair[objective], context) for objective in OBJECTIVES}
    both = {
        seed: (value, values["mmcl_ssl"][seed])
        for seed, value in values["mmcl"].items()
        if seed in values["mmcl_ssl"]
    }
    if not both:
        return
    mmcl, ssl = (
        estimate(
            {seed: pair_of_seed[side].value for seed, pair_of_seed in both.items()},
            any(pair_of_seed[side].at_least for pair_of_seed in both.values()),
            rules.level,
        )
        for side in range(2)
    )
    difference = {seed: other.value - one.value for seed, (one, other) in both.items()}
    at_least = any(other.at_least or one.at_most for one, other in both.values())
    starts = {
        objective: fmean(model.start.asr for model in pair[objective].values())
        for objective in OBJECTIVES
    }
    yield CellVerdict(
        dataset=comparison.dataset,
        clean_size=comparison.clean_size,
        comparator=comparison.comparator,
        mmcl=mmcl,
        mmcl_ssl=ssl,
        difference=estimate(difference, at_least, rules.level),
        p=p_above(list(difference.values())),
        control=comparison.control,
        start_asr=starts,
        weak_backdoor=min(starts.values()) < rules.weak_start,
        edge=[edge for objective in OBJECTIVES for edge in _edges(objective, pair[objective])],
    )


def _edges(objective: Objective, models: Mapping[int, CleanedModel]) -> Iterator[dict[str, Any]]:
    rates = [
        (model.best.learning_rate, model.ends.learning_rate)
        for model in models.values()
        if model.best is not None and len(model.ends) > 1
    ]
    for end, place in (("lowest", 0), ("highest", -1)):
        if seeds := sum(best == grid.iloc[place] for best, grid in rates):
            yield {"objective": objective, "end": end, "seeds": seeds, "of": len(models)}


def _judged(cell: CellVerdict, measure: Measure, rule: MeasureRule, level: float) -> CellVerdict:
    control = cell.control
    assert control is not None
    if cell.difference.seeds < FEWEST_SEEDS:
        verdict, reason = "undecided", f"fewer than {FEWEST_SEEDS} seeds"
    # The first measures need only that CleanCLIP removes the backdoor of the MMCL model.
    elif not control.removes or (measure.price and not control.holds):
        word = "not run" if control.holds is None else "failed"
        verdict, reason = f"not tested: control {word}", control.reason
    else:
        verdict, reason = _verdict(cell, rule, level)
    return replace(cell, alone=verdict, verdict=verdict, reason=reason)


def _verdict(cell: CellVerdict, rule: MeasureRule, level: float) -> tuple[str, str]:
    """Verdict of a difference, and its reason."""
    difference = cell.difference
    reason = "at least: the grid of learning rates ends too early" * difference.at_least
    if difference.upper is None or difference.lower is None or cell.p_holm is None:
        return "undecided", reason
    small = difference.upper < rule.negligible and not difference.at_least
    if cell.p_holm > level:
        # A lower bound cannot show that a difference is small.
        return "refuted" if small else "undecided", reason
    of_papers_size = rule.paper is not None and difference.lower >= rule.paper
    return SUPPORTED[0 if small else 2 if of_papers_size else 1], reason


def _pooled(cells: Sequence[CellVerdict], rule: MeasureRule, level: float) -> list[CellVerdict]:
    """The mean over the cells for each seed that all of them have; nothing without such a seed."""
    by_cell = [cell.difference.by_seed for cell in cells]
    seeds = [seed for seed in (by_cell or [{}])[0] if all(seed in by_seed for by_seed in by_cell)]
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
        start_asr={
            objective: fmean(cell.start_asr[objective] for cell in cells)
            for objective in OBJECTIVES
        },
        weak_backdoor=any(cell.weak_backdoor for cell in cells),
        edge=[],
    )
    verdict, reason = _verdict(pooled, rule, level)
    if untested := [cell for cell in cells if cell.alone.startswith("not tested")]:
        worst = next((cell for cell in untested if "failed" in cell.alone), untested[0])
        where = ", ".join(f"{label(cell.dataset)} {label(cell.clean_size)}" for cell in untested)
        verdict, reason = worst.alone, f"{worst.reason} ({where})"
    return [replace(pooled, alone=verdict, verdict=verdict, reason=reason)]


def _against_all(cells: Sequence[CellVerdict]) -> list[CellVerdict]:
    """A verdict other than "undecided" holds only if it holds against every comparator."""
    combined = []
    for cell in cells:
        place = (cell.dataset, cell.clean_size)
        alone = {
            other.comparator: other.alone
            for other in cells
            if (other.dataset, other.clean_size) == place
        }
        verdicts = list(alone.values())
        if untested := [verdict for verdict in verdicts if verdict.startswith("not tested")]:
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


def equal_runs(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[dict[str, Any]]:
    """In how many pairs of runs of equal rate and steps the MMCL + SSL model keeps more ASR."""
    for dataset, size in rules.cells:
        first = next(iter(arms.mmcl.values()))
        mmcl, ssl = evaluations.pair(first, arms.mmcl_ssl, dataset, size).values()
        keys = ["learning_rate", "step"]
        pairs = [
            mmcl[seed].ends.merge(ssl[seed].ends, on=keys, suffixes=("", "_ssl"))
            for seed in mmcl.keys() & ssl.keys()
        ]
        if pairs:
            more = sum(int((table.asr_ssl > table.asr).sum()) for table in pairs)
            counts = {"pairs": sum(map(len, pairs)), "more": more}
            yield {"dataset": dataset, "clean_size": size, **counts}


def verdicts(evaluations: Evaluations, claims: Claims, profile: str) -> Verdicts:
    """All verdicts over seeds of a profile.

    `evaluations`: of the profile's own runs (study and variant ""), of its studies, and of the
    authors. The exploratory verdicts are of the archived study; without it, of the own runs.
    """
    rules = claims.rules
    context = Context.of(claims, profile)
    arms = claims.comparisons.exploratory.get(profile)
    if arms is None or not any(arm.startswith(f"{arms.study}/") for arm in evaluations.arms):
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
            objectives = {key[2] for key in evaluations.rows if key[0] == arm}
            ssl = arm if "mmcl_ssl" in objectives else confirming.mmcl_ssl
            beside = Arms(mmcl_ssl=ssl, mmcl={rule.variant: arm}, twin=None)
            if objectives:
                judged = cell_verdicts(evaluations, beside, rules, context, rules.fixed)
                secondary.append({"name": name, "why": rule.why, "measures": judged})
    cells = [cell for measure in exploratory for cell in measure.cells]
    return Verdicts(
        source=arms.study or None,
        seeds=sorted({seed for cell in cells for seed in cell.difference.by_seed}),
        exploratory=exploratory,
        equal_runs=list(equal_runs(evaluations, arms, rules)),
        confirmed=confirmed,
        confirmed_seeds=done,
        planned_seeds=list(planned),
        secondary=secondary,
        authors=cell_verdicts(evaluations, AUTHORS_ARMS, rules, context, "the authors' points"),
    )


def _complete_seeds(evaluations: Evaluations, study: str, planned: Sequence[int]) -> list[int]:
    """Seeds of those planned with as many runs as the one that has most."""
    of_study = [rows for key, rows in evaluations.rows.items() if key[0].startswith(f"{study}/")]
    if not of_study:
        return []
    rows = pd.concat(of_study)
    runs = rows[rows.seed.isin(planned)].groupby("seed").run.nunique()
    return sorted(int(seed) for seed in runs.index[runs == runs.max()])
