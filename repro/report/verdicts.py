"""Does an MMCL + SSL model resist CleanCLIP more than an MMCL model? Verdicts over seeds.

The rules are those of docs/rules.md; their numbers are `rules` in specs/claims.yaml. A difference
is MMCL + SSL less MMCL within a cell, one value a seed. Shares are fractions.
"""

import math
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr

from repro.intervals import Interval, student
from repro.report.cells import OBJECTIVES
from repro.report.claims import Arms, Claims, MeasureRule, Rules
from repro.report.format import label
from repro.report.measures import (
    CleanedModel,
    Evaluations,
    Measure,
    Pair,
    Value,
    accuracy_at_cap,
    best_under_cap,
    judged,
    lost_at_cap,
    of_both,
)
from repro.report.points import AUTHORS
from repro.spec import CleanSize, Dataset, Objective, Profile

FEWEST_SEEDS = 3
"""Of fewer seeds there is neither an interval nor a test."""
AUTHORS_ARMS = Arms(mmcl_ssl=f"{AUTHORS}/", mmcl={AUTHORS: f"{AUTHORS}/"})
OWN = Arms(mmcl_ssl="/", mmcl={"own": "/"})
"""The runs of a report itself, which belong to no study and no variant."""
NEGLIGIBLE, SMALLER, PLAIN, LIKE_PAPER = SUPPORTED = (
    "supported, negligible",
    "supported, smaller than the paper's",
    "supported",
    "supported, of the paper's size",
)
"""Verdicts for the claim, the weakest first."""
AGAINST = {
    NEGLIGIBLE: "MMCL + SSL higher, negligible",
    PLAIN: "MMCL + SSL higher",
    "refuted": "MMCL + SSL not higher",
}
"""Words for a measure that speaks against the paper where MMCL + SSL models are higher."""
WEAK = "weak backdoor"
LATER = "measure chosen later, exploratory"


Scope = Literal["proxy", "exact"]
"""Whether a verdict is on substitutes for the paper's data and model, or on these."""


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


@dataclass(frozen=True)
class Control:
    """Does CleanCLIP work on the models of one objective in a cell?"""

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
    """The models of a cell with those of one comparator, and their controls."""

    dataset: Dataset
    clean_size: CleanSize
    comparator: str
    pair: Pair
    controls: dict[Objective, Control]


@dataclass(kw_only=True)
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
    control_ssl: Control | None
    """The same of the MMCL + SSL models, which decides nothing."""
    start_accuracy: dict[Objective, float]
    """Before cleaning, mean over seeds."""
    start_asr: dict[Objective, float]
    """Likewise."""
    marks: list[str]
    """What the rules mark: WEAK, and of the best model that it is at an edge of the grid."""


@dataclass(frozen=True)
class MeasureVerdict:
    """A measure in all cells."""

    measure: str
    title: str
    unit: str
    negligible: float
    """The smallest difference that counts."""
    paper: dict[Dataset, float] | None
    """The paper's difference by dataset."""
    fixed: str
    """When the measure was fixed, or "exploratory"."""
    scope: Scope
    """Whether the data are the paper's."""
    cells: list[CellVerdict]
    """One a cell and comparator."""
    pooled: CellVerdict | None
    """Of the first comparator."""
    verdict: str
    """Of the pooled difference."""


@dataclass(frozen=True)
class Verdicts:
    """All verdicts over seeds."""

    arms: Arms
    """Of the confirmed verdicts, or else the exploratory ones: an archived study's, or OWN."""
    seeds: list[int]
    """Of the exploratory verdicts."""
    exploratory: list[MeasureVerdict]
    confirmed: list[MeasureVerdict] | None
    """None until all planned seeds are archived."""
    confirmed_seeds: list[int]
    """Archived so far."""
    planned_seeds: list[int]
    secondary: list[dict[str, Any]]
    """Comparisons that were fixed with the rules and stand apart from the claims: `name`, `why`,
    `measures`.
    """
    beside: list[dict[str, Any]]
    """Comparisons within one arm that were looked for after its data were seen: `name`,
    `measures`.
    """
    authors: list[MeasureVerdict]
    """Of the authors' points, which are of one training and name no learning rates."""


def scope_of(profile: Profile) -> Scope:
    """Whether the data of a profile are the paper's."""
    return "proxy" if profile.data.stand_in else "exact"


def estimate(by_seed: Mapping[int, Value], level: float = 0.05) -> Estimate:
    """The mean over seeds with Student's interval and one-sided limits at 1 - `level`."""
    values = {seed: value.value for seed, value in by_seed.items()}
    known = list(values.values())
    mean, interval, lower, upper = fmean(known), None, None, None
    if len(known) >= FEWEST_SEEDS:
        interval, (lower, upper) = student(known, 0.95), student(known, 1 - 2 * level)
    bounds = (any(value[bound] for value in by_seed.values()) for bound in (1, 2))
    return Estimate(mean, interval, lower, upper, len(values), values, *bounds)


def p_above(values: Collection[float]) -> float | None:
    """One-sided p of Student's test that the mean is above zero; None for too few values."""
    if len(values) < FEWEST_SEEDS:
        return None
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    if error == 0:
        return float(mean <= 0)
    return float(stdtr(len(values) - 1, -mean / error))


def holm(ps: Iterable[float | None]) -> list[float | None]:
    """Holm's correction; a test that could not be made (None) counts in the family."""
    all_ps = pd.Series(list(ps), dtype=float)
    ordered = all_ps.dropna().sort_values()
    corrected = (ordered * (len(all_ps) - np.arange(len(ordered)))).clip(upper=1).cummax()
    return [corrected.get(place) for place in all_ps.index]


def positive_control(
    models: Mapping[int, CleanedModel],
    twins: Mapping[int, CleanedModel],
    rules: Rules,
    objective: Objective,
) -> Control:
    """Whether CleanCLIP cleans models and costs them no more than their twins."""
    lost, excess, cap = {}, {}, next(iter(models.values())).context.cap
    for seed, model in models.items():
        if model.best is not None:
            lost[seed] = Value(1 - model.best.kept)
        if twin := twins.get(seed):
            # The best among the rates and steps at which both were evaluated.
            keys = ["learning_rate", "step"]
            both = model.points.merge(twin.points[[*keys, "kept"]], on=keys, suffixes=("", "_twin"))
            if (best := best_under_cap(both, cap)) is not None:
                excess[seed] = Value(best.kept_twin - best.kept)
    loss, twin_loss = (estimate(of, rules.level) if of else None for of in (lost, excess))

    # Without a twin the paper's own control can still hold: hardly any accuracy is lost at all.
    judged = twin_loss if twins else loss
    upper = judged.upper if judged else None
    margin = f"{100 * rules.twin_margin:g}% of the accuracy"
    control = partial(Control, len(lost), len(models), loss, twin_loss)
    if fmean(model.start.asr for model in models.values()) <= cap:
        return control(False, False, f"the {label(objective)} models have no backdoor")
    if len(lost) < rules.cleaned_share * len(models):
        reason = f"{label(objective)} models were cleaned on {len(lost)} of {len(models)} seeds"
        return control(False, False, reason)
    if upper is not None and upper < rules.twin_margin:
        reason = f"loses less than {margin}" + " more than the twin" * bool(twins)
        return control(True, True, reason)
    if twins and upper is not None:
        return control(True, False, f"may lose {margin} more than the twin")
    return control(True, None, "too few never-poisoned twins at the same rates and steps")


def cell_verdicts(
    evaluations: Evaluations, arms: Arms, rules: Rules, scope: Scope, confirmed: bool = False
) -> list[MeasureVerdict]:
    """Every measure in every cell that has runs of both models; `confirmed` where rules and arms
    were fixed before the runs.
    """
    comparisons: list[Comparison] = []
    for name, arm in arms.mmcl.items():
        for place in rules.cells:
            pair = evaluations.pair(arm, arms.mmcl_ssl, *place)
            if pair["mmcl"].keys() & pair["mmcl_ssl"].keys():
                controls = {}
                for objective, models in pair.items():
                    of = [evaluations.cleaned(twin, *place, objective) for twin in arms.twins]
                    controls[objective] = positive_control(models, ChainMap(*of), rules, objective)
                comparisons.append(Comparison(*place, name, pair, controls))

    verdicts = []
    for measure in judged(rules.measures):
        rule = rules.measures[measure.name]
        later = rule.fixed > rules.fixed
        cells: list[CellVerdict] = []
        for name in arms.mmcl:
            compared = [
                _measured(measure, of, rules) for of in comparisons if of.comparator == name
            ]
            measured = [cell for cell in compared if cell]
            for cell, p in zip(
                compared, holm(cell.p if cell else None for cell in compared), strict=True
            ):
                if cell:
                    cell.p_holm = p
                    cell.alone, cell.reason = _verdict(cell, measure, rule, rules.level)
            # A mean over some of the settings would not be what the rules pool.
            if len(measured) == len(compared):
                measured += _pooled(measured, measure, rule, rules.level)
            cells += measured
        _judge_against_all(cells)
        for cell in cells:
            cell.marks += [LATER] * (confirmed and later)
            if rule.speaks == "against":
                cell.alone, cell.verdict = (AGAINST.get(v, v) for v in (cell.alone, cell.verdict))
        pooled = next((cell for cell in cells if cell.dataset is None), None)
        if cells:
            verdicts.append(
                MeasureVerdict(
                    measure=measure.name,
                    title=measure.title,
                    unit=measure.unit,
                    negligible=rule.negligible,
                    paper=rule.paper,
                    fixed=str(rule.fixed) if confirmed and not later else "exploratory",
                    scope=scope,
                    cells=[cell for cell in cells if cell.dataset is not None],
                    pooled=pooled,
                    verdict=pooled.verdict if pooled else "undecided",
                )
            )
    return verdicts


def _measured(measure: Measure, comparison: Comparison, rules: Rules) -> CellVerdict | None:
    """A cell without its verdict; None where no seed has the measure of both models."""
    values = of_both(measure.of, comparison.pair)
    if not values["difference"]:
        return None
    mmcl, ssl, difference = (estimate(of, rules.level) for of in values.values())
    starts = {
        number: {
            objective: fmean(model.start[number] for model in models.values())
            for objective, models in comparison.pair.items()
        }
        for number in ("accuracy", "asr")
    }
    return CellVerdict(
        dataset=comparison.dataset,
        clean_size=comparison.clean_size,
        comparator=comparison.comparator,
        mmcl=mmcl,
        mmcl_ssl=ssl,
        difference=difference,
        p=p_above(difference.by_seed.values()),
        control=comparison.controls["mmcl"],
        control_ssl=comparison.controls["mmcl_ssl"],
        start_accuracy=starts["accuracy"],
        start_asr=starts["asr"],
        marks=[WEAK] * (min(starts["asr"].values()) < rules.weak_start)
        + [*_edges(comparison.pair)] * (measure.of in (lost_at_cap, accuracy_at_cap)),
    )


def _edges(pair: Pair) -> Iterator[str]:
    """On how many seeds the best model is at the lowest or highest learning rate."""
    for objective, models in pair.items():
        for end, outermost in (("lowest", min), ("highest", max)):
            seeds = sum(
                model.best is not None
                and len(model.ends) > 1
                and model.best.learning_rate == outermost(model.ends.learning_rate)
                for model in models.values()
            )
            if seeds:
                yield f"{label(objective)} best at {end} rate on {seeds}/{len(models)} seeds"


def _verdict(
    cell: CellVerdict, measure: Measure, rule: MeasureRule, level: float
) -> tuple[str, str]:
    """Verdict against one comparator, and its reason; a pooled cell has no control."""
    difference, control = cell.difference, cell.control
    bound = difference.at_least or difference.at_most
    reason = "a bound: the grid of learning rates ends too early" * bound
    if difference.interval is None or cell.p_holm is None:
        return "undecided", f"fewer than {FEWEST_SEEDS} seeds"
    # The first measures need only that CleanCLIP removes the backdoor of the MMCL model.
    if control and not (control.holds if measure.price else control.removes):
        word = "not run" if control.holds is None else "failed"
        return f"not tested (control {word})", control.reason
    # A pooled difference is a mean over settings, and so is what it is compared with.
    paper = [of for dataset, of in (rule.paper or {}).items() if cell.dataset in (None, dataset)]
    return judge(difference, cell.p_holm, rule.negligible, level, paper=paper), reason


def judge(
    found: Estimate,
    p: float | None,
    negligible: float,
    level: float,
    *,
    above: bool = True,
    paper: Sequence[float] = (),
) -> str:
    """Verdict on a difference that is expected `above` zero, or else below it.

    `p` is one-sided and corrected; `negligible` the smallest difference that counts; `paper` are
    the paper's differences, a mean of several being compared with their mean.
    """
    if found.lower is None or found.upper is None or p is None:
        return "undecided"
    lower, upper = (found.lower, found.upper) if above else (-found.upper, -found.lower)
    at_least, at_most = found.at_least, found.at_most
    if not above:
        at_least, at_most = at_most, at_least
    small = upper < negligible and not at_least
    # A lower bound cannot show that a difference is small, nor an upper one that there is any.
    if p > level or at_most:
        return "refuted" if small and p > level else "undecided"
    if small:
        return NEGLIGIBLE
    if paper and lower >= fmean(paper):
        return LIKE_PAPER
    if paper and upper < min(paper) and not at_least:
        return SMALLER
    return PLAIN


def _pooled(
    cells: Sequence[CellVerdict], measure: Measure, rule: MeasureRule, level: float
) -> Iterator[CellVerdict]:
    """The mean over the cells for each seed that all of them have; nothing without such a seed."""
    by_seed = pd.DataFrame([cell.difference.by_seed for cell in cells])
    seeds = by_seed.dropna(axis=1).columns
    if seeds.empty:
        return

    def mean(estimates: Sequence[Estimate]) -> Estimate:
        bounds = any(e.at_least for e in estimates), any(e.at_most for e in estimates)
        means = {seed: Value(fmean(e.by_seed[seed] for e in estimates), *bounds) for seed in seeds}
        return estimate(means, level)

    difference = mean([cell.difference for cell in cells])
    p = p_above(difference.by_seed.values())
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
        control_ssl=None,
        start_accuracy={o: fmean(cell.start_accuracy[o] for cell in cells) for o in OBJECTIVES},
        start_asr={o: fmean(cell.start_asr[o] for cell in cells) for o in OBJECTIVES},
        marks=[WEAK] * any(WEAK in cell.marks for cell in cells),
    )
    pooled.alone, pooled.reason = _verdict(pooled, measure, rule, level)
    if untested := [cell for cell in cells if cell.alone.startswith("not tested")]:
        worst = max(untested, key=lambda cell: "failed" in cell.alone)
        where = ", ".join(f"{label(cell.dataset)} {label(cell.clean_size)}" for cell in untested)
        pooled.alone, pooled.reason = worst.alone, f"{worst.reason} ({where})"
    yield pooled


def _judge_against_all(cells: Sequence[CellVerdict]) -> None:
    """A verdict other than "undecided" holds only if it holds against every comparator.

    Of two that support the claim, the weaker one does.
    """
    for cell in cells:
        alone = {
            other.comparator: other.alone
            for other in cells
            if (other.dataset, other.clean_size) == (cell.dataset, cell.clean_size)
        }
        verdicts = list(alone.values())
        if all(verdict in SUPPORTED for verdict in verdicts):
            cell.verdict = min(verdicts, key=SUPPORTED.index)
        else:
            # Two are the same but for a reason in brackets: "not tested (control failed)".
            same = len({verdict.split(" (")[0] for verdict in verdicts}) == 1
            cell.verdict = verdicts[0] if same else "undecided"
        if cell.verdict != cell.alone:
            cell.reason = "; ".join(f"against {name}: {of}" for name, of in alone.items())


def verdicts(
    evaluations: Evaluations,
    claims: Claims,
    profile: str,
    whole: Mapping[str, Collection[int]],
    scope: Scope,
) -> Verdicts:
    """All verdicts over seeds of a profile.

    `evaluations`: of the profile's own runs (study and variant ""), of its studies, and of the
    authors. The exploratory verdicts are of the archived study; without it, of the own runs.
    `whole`: by study that confirms, the seeds of which all runs are archived.
    """
    rules = claims.rules
    arms = claims.comparisons.exploratory.get(profile)
    if arms is None or arms.study not in set(evaluations.frame.study):
        arms = OWN
    exploratory = cell_verdicts(evaluations, arms, rules, scope)

    planned = rules.seeds.get(profile, [])
    confirming = claims.comparisons.confirmed.get(profile)
    done = [s for s in planned if confirming and s in whole.get(confirming.study, ())]
    confirmed, secondary = None, []
    if confirming and planned and done == planned:
        complete = {study for study, seeds in whole.items() if {*planned} <= {*seeds}}
        twins = [arm for arm in confirming.twins if arm.split("/")[0] in complete]
        arms = confirming.model_copy(update={"twins": twins})
        confirmed = cell_verdicts(evaluations, arms, rules, scope, confirmed=True)
        for name, rule in rules.secondary.items():
            arm = f"{rule.study}/{rule.variant}"
            of_arm = evaluations.frame[evaluations.frame.arm == arm]
            ssl = arm if "mmcl_ssl" in set(of_arm.pretrain_objective) else confirming.mmcl_ssl
            twins = [twin for twin in rule.twins if twin.split("/")[0] in complete]
            beside = Arms(mmcl_ssl=ssl, mmcl={rule.variant: arm}, twins=twins)
            if rule.study in complete:
                judged = cell_verdicts(evaluations, beside, rules, scope, confirmed=True)
                secondary.append({"name": name, "why": rule.why, "measures": judged})
    cells = [cell for measure in exploratory for cell in measure.cells]
    return Verdicts(
        arms=arms,
        seeds=sorted({seed for cell in cells for seed in cell.difference.by_seed}),
        exploratory=exploratory,
        confirmed=confirmed,
        confirmed_seeds=done,
        planned_seeds=planned,
        secondary=secondary,
        beside=[
            {
                "name": name,
                "measures": cell_verdicts(
                    evaluations, Arms(mmcl_ssl=arm, mmcl={name: arm}), rules, scope
                ),
            }
            for name, arm in claims.comparisons.beside.get(profile, {}).items()
        ],
        authors=cell_verdicts(evaluations, AUTHORS_ARMS, rules, "exact"),
    )
