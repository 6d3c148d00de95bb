"""Does an MMCL + SSL model resist CleanCLIP more than an MMCL model? Verdicts over seeds.

The rules are those of docs/method.md; their numbers are `rules` in specs/claims.yaml. A difference
is MMCL + SSL less MMCL within a setting, one value a seed. Shares are fractions.
"""

import math
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Literal, NamedTuple

from repro.report.cells import OBJECTIVES
from repro.report.claims import Arms, Claims, Rules, SecondaryRule
from repro.report.contrasts import (
    FEWEST_SEEDS,
    SUPPORTING,
    Contrast,
    Estimate,
    Tested,
    Verdict,
    difference,
    estimate,
    judge,
    mean_of,
    tested,
)
from repro.report.format import label
from repro.report.measures import (
    CleanedModel,
    Evaluations,
    Measure,
    Models,
    Value,
    accuracy_at_cap,
    best_under_cap,
    judged,
    lost_at_cap,
)
from repro.report.points import AUTHORS
from repro.spec import CleanSize, Dataset, Objective, Profile

AUTHORS_ARMS = Arms(mmcl_ssl=f"{AUTHORS}/", mmcl={AUTHORS: f"{AUTHORS}/"})
OWN = Arms(mmcl_ssl="/", mmcl={"own": "/"})
"""The runs of a report itself, which belong to no study and no variant."""
AGAINST: dict[str, str] = {
    Verdict.NEGLIGIBLE: "MMCL + SSL higher, negligible",
    Verdict.SUPPORTED: "MMCL + SSL higher",
    Verdict.REFUTED: "MMCL + SSL not higher",
}
"""Words for a measure that speaks against the paper where MMCL + SSL models are higher."""
WEAK = "weak backdoor"
LATER = "measure chosen later, exploratory"
OF_BEST = (lost_at_cap, accuracy_at_cap)
"""Measures of the best model, which say whether it is at an edge of the grid."""

Scope = Literal["proxy", "exact"]
"""Whether a verdict is on substitutes for the paper's data and model, or on these."""


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


@dataclass(kw_only=True)
class Compared:
    """The models of a setting with those of one comparator, or of all settings together (then
    dataset and size are None).
    """

    dataset: Dataset | None
    clean_size: CleanSize | None
    comparator: str
    """Which MMCL models."""
    control: Control | None
    """None for all settings together."""
    control_ssl: Control | None
    """The same of the MMCL + SSL models, which decides nothing."""
    start_accuracy: dict[Objective, float]
    """Before cleaning, mean over seeds."""
    start_asr: dict[Objective, float]
    """Likewise."""
    marks: list[str]
    """What the rules mark: WEAK, and of the best model that it is at an edge of the grid."""


@dataclass(kw_only=True)
class CellVerdict(Compared):
    """The verdict by a measure."""

    mmcl: Estimate
    mmcl_ssl: Estimate
    difference: Estimate
    p: float | None
    """One-sided, of a difference above zero."""
    p_holm: float | None
    """Corrected over the settings."""
    alone: str = ""
    """The verdict against this comparator."""
    verdict: str = ""
    """The verdict against all comparators."""
    reason: str = ""


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
class Beside:
    """A comparison that stands apart from the claims."""

    name: str
    measures: list[MeasureVerdict]
    why: str = ""
    """What it is there to show, where that was fixed beforehand."""


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
    secondary: list[Beside]
    """Fixed with the rules."""
    beside: list[Beside]
    """Within one arm, looked for after its data were seen."""
    elsewhere: list[Beside]
    """As `beside`, by study: of those that repeat the comparison on another task or model."""
    authors: list[MeasureVerdict]
    """Of the authors' points, which are of one training and name no learning rates."""


def scope_of(profile: Profile) -> Scope:
    """Whether the data of a profile are the paper's."""
    return "proxy" if profile.data.stand_in else "exact"


class Comparison(NamedTuple):
    """What is contrasted in a setting."""

    of: Compared
    terms: dict[Models, float]
    edges: list[str]
    """On how many seeds a best model is at the lowest or highest learning rate."""


def positive_control(
    models: Mapping[int, CleanedModel],
    twins: Mapping[int, CleanedModel],
    rules: Rules,
    objective: Objective,
) -> Control:
    """Whether CleanCLIP cleans models and costs them no more than their twins."""
    cap = next(iter(models.values())).context.cap
    lost = {
        seed: Value(1 - model.best.kept) for seed, model in models.items() if model.best is not None
    }
    excess = {
        seed: value
        for seed, model in models.items()
        if seed in twins and (value := _more_than_twin(model, twins[seed])) is not None
    }
    loss = estimate(lost, rules.level) if lost else None
    twin_loss = estimate(excess, rules.level) if excess else None

    def control(removes: bool, holds: bool | None, reason: str) -> Control:
        return Control(len(lost), len(models), loss, twin_loss, removes, holds, reason)

    if fmean(model.start.asr for model in models.values()) <= cap:
        return control(False, False, f"the {label(objective)} models have no backdoor")
    if len(lost) < rules.cleaned_share * len(models):
        reason = f"{label(objective)} models were cleaned on {len(lost)} of {len(models)} seeds"
        return control(False, False, reason)

    # Without a twin the paper's own control can still hold: hardly any accuracy is lost at all.
    decides = twin_loss if twins else loss
    upper = decides.upper if decides else None
    margin = f"{100 * rules.twin_margin:g}% of the accuracy"
    if upper is not None and upper < rules.twin_margin:
        than = " more than the twin" if twins else ""
        return control(True, True, f"loses less than {margin}{than}")
    if twins and upper is not None:
        return control(True, False, f"may lose {margin} more than the twin")
    return control(True, None, "too few never-poisoned twins at the same rates and steps")


def _more_than_twin(model: CleanedModel, twin: CleanedModel) -> Value | None:
    """How much more accuracy the best model loses than its twin, among the rates and steps at which
    both were evaluated.
    """
    keys = ["learning_rate", "step"]
    both = model.points.merge(twin.points[[*keys, "kept"]], on=keys, suffixes=("", "_twin"))
    best = best_under_cap(both, model.context.cap)
    return None if best is None else Value(best.kept_twin - best.kept)


def cell_verdicts(
    evaluations: Evaluations, arms: Arms, rules: Rules, scope: Scope, confirmed: bool = False
) -> list[MeasureVerdict]:
    """Every measure in every setting that has runs of both models; `confirmed` where rules and arms
    were fixed before the runs.
    """
    comparisons = list(_comparisons(evaluations, arms, rules))
    found = []
    for measure in judged(rules.measures):
        rule = rules.measures[measure.name]
        cells, pooled = _judged_cells(measure, comparisons, evaluations, rules)
        later = rule.fixed > rules.fixed
        for cell in (*cells, *pooled):
            if confirmed and later:
                cell.marks.append(LATER)
            if rule.speaks == "against":
                cell.alone = AGAINST.get(cell.alone, cell.alone)
                cell.verdict = AGAINST.get(cell.verdict, cell.verdict)
        if cells:
            found.append(
                MeasureVerdict(
                    measure=measure.name,
                    title=measure.title,
                    unit=measure.unit,
                    negligible=rule.negligible,
                    paper=rule.paper,
                    fixed=str(rule.fixed) if confirmed and not later else "exploratory",
                    scope=scope,
                    cells=cells,
                    pooled=pooled[0] if pooled else None,
                    verdict=pooled[0].verdict if pooled else Verdict.UNDECIDED,
                )
            )
    return found


def _comparisons(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[Comparison]:
    """One a comparator and setting in which some seed has the models of both objectives."""
    for (name, arm), (dataset, size) in product(arms.mmcl.items(), rules.cells):
        terms = difference((arm,), (arms.mmcl_ssl,), dataset, size)
        models = {of.objective: evaluations.models(of) for of in terms}
        if not set.intersection(*(set(by_seed) for by_seed in models.values())):
            continue
        controls = {}
        for objective, by_seed in models.items():
            twins = [evaluations.models(Models((t,), objective, dataset, size)) for t in arms.twins]
            controls[objective] = positive_control(by_seed, ChainMap(*twins), rules, objective)
        start_accuracy, start_asr = (
            {
                objective: fmean(model.start[number] for model in by_seed.values())
                for objective, by_seed in models.items()
            }
            for number in ("accuracy", "asr")
        )
        compared = Compared(
            dataset=dataset,
            clean_size=size,
            comparator=name,
            control=controls["mmcl"],
            control_ssl=controls["mmcl_ssl"],
            start_accuracy=start_accuracy,
            start_asr=start_asr,
            marks=[WEAK] if min(start_asr.values()) < rules.weak_start else [],
        )
        edges = [line for item in models.items() for line in _edges(*item)]
        yield Comparison(compared, terms, edges)


def _edges(objective: Objective, models: Mapping[int, CleanedModel]) -> Iterator[str]:
    for end, outermost in (("lowest", min), ("highest", max)):
        seeds = 0
        for model in models.values():
            if model.best is not None and len(model.ends) > 1:
                seeds += model.best.learning_rate == outermost(model.ends.learning_rate)
        if seeds:
            yield f"best {label(objective)} model at the {end} rate on {seeds}/{len(models)} seeds"


def _judged_cells(
    measure: Measure, comparisons: Sequence[Comparison], evaluations: Evaluations, rules: Rules
) -> tuple[list[CellVerdict], list[CellVerdict]]:
    """The verdicts by a measure: one a comparison, and one a comparator over all settings."""
    rule = rules.measures[measure.name]
    papers = rule.paper or {}
    general = Contrast(
        measure.of,
        terms={},
        counts=(rule.negligible, math.inf),
        level=rules.level,
    )
    contrasts = []
    for comparison in comparisons:
        of = comparison.of
        paper = [papers[of.dataset]] if of.dataset in papers else []
        contrasts.append(
            replace(general, terms=comparison.terms, paper=paper, family=of.comparator)
        )
    results = tested(contrasts, evaluations)
    comparators = [*dict.fromkeys(contrast.family for contrast in contrasts)]

    cells: list[CellVerdict] = []
    pooled: list[CellVerdict] = []
    for comparator in comparators:
        own: list[CellVerdict] = []
        settings = 0
        for comparison, contrast, result in zip(comparisons, contrasts, results, strict=True):
            if contrast.family == comparator:
                settings += 1
                if result.total:
                    own.append(_cell(measure, comparison, contrast, result))
        cells += own
        # A mean over some of the settings would not be what the rules pool.
        if settings == len(own):
            known = [papers[cell.dataset] for cell in own if cell.dataset in papers]
            paper = known if len(known) == settings else []
            pooled += _pooled(own, replace(general, paper=paper, family=comparator), measure)
    _judge_against_all([*cells, *pooled], comparators)
    return cells, pooled


def _cell(
    measure: Measure, comparison: Comparison, contrast: Contrast, result: Tested
) -> CellVerdict:
    mmcl, mmcl_ssl, total = (estimate(of, contrast.level) for of in result.sides)
    cell = CellVerdict(
        **vars(comparison.of),
        mmcl=mmcl,
        mmcl_ssl=mmcl_ssl,
        difference=total,
        p=result.p,
        p_holm=result.p_holm,
    )
    if measure.of in OF_BEST:
        cell.marks = [*cell.marks, *comparison.edges]
    cell.alone, cell.reason = _alone(cell, contrast, measure)
    return cell


def _alone(cell: CellVerdict, contrast: Contrast, measure: Measure) -> tuple[str, str]:
    """The verdict against one comparator, and its reason; a pooled cell has no control."""
    control, found = cell.control, cell.difference
    if found.limits is None:
        return Verdict.UNDECIDED, f"fewer than {FEWEST_SEEDS} seeds"
    # The first measures need only that CleanCLIP removes the backdoor of the MMCL model.
    if control and not (control.holds if measure.price else control.removes):
        word = "not run" if control.holds is None else "failed"
        return f"{Verdict.NOT_TESTED} (control {word})", control.reason
    bound = found.at_least or found.at_most
    reason = "a bound: the grid of learning rates ends too early" if bound else ""
    return judge(contrast, found.limits, cell.p_holm), reason


def _pooled(
    cells: Sequence[CellVerdict], contrast: Contrast, measure: Measure
) -> Iterator[CellVerdict]:
    """The mean over the settings for each seed that all of them have; nothing without one."""
    mmcl, mmcl_ssl, total = (
        mean_of([getattr(cell, side) for cell in cells], contrast.level)
        for side in (*OBJECTIVES, "difference")
    )
    if mmcl is None or mmcl_ssl is None or total is None:
        return
    p = contrast.p(total.by_seed.values())
    pooled = replace(
        cells[0],
        dataset=None,
        clean_size=None,
        mmcl=mmcl,
        mmcl_ssl=mmcl_ssl,
        difference=total,
        p=p,
        p_holm=p,
        control=None,
        control_ssl=None,
        start_accuracy={o: fmean(cell.start_accuracy[o] for cell in cells) for o in OBJECTIVES},
        start_asr={o: fmean(cell.start_asr[o] for cell in cells) for o in OBJECTIVES},
        marks=[WEAK] if any(WEAK in cell.marks for cell in cells) else [],
    )
    pooled.alone, pooled.reason = _alone(pooled, contrast, measure)
    if untested := [cell for cell in cells if cell.alone.startswith(Verdict.NOT_TESTED)]:
        worst = max(untested, key=lambda cell: "failed" in cell.alone)
        where = ", ".join(f"{label(cell.dataset)} {label(cell.clean_size)}" for cell in untested)
        pooled.alone, pooled.reason = worst.alone, f"{worst.reason} ({where})"
    yield pooled


def _judge_against_all(cells: Sequence[CellVerdict], comparators: Sequence[str]) -> None:
    """A verdict other than "undecided" holds only if it holds against every comparator.

    Of two that support the claim, the weaker one does; "smaller than the paper's" needs all. A
    comparator without the measure decides nothing.
    """
    for cell in cells:
        alone: dict[str, str] = dict.fromkeys(comparators, Verdict.UNDECIDED)
        alone |= {
            other.comparator: other.alone
            for other in cells
            if (other.dataset, other.clean_size) == (cell.dataset, cell.clean_size)
        }
        verdicts = list(alone.values())
        if all(verdict in SUPPORTING for verdict in verdicts):
            cell.verdict = min(verdicts, key=SUPPORTING.index)
            # That it is smaller than the paper's is a further claim, not a weaker one.
            if cell.verdict == Verdict.SMALLER and {*verdicts} != {Verdict.SMALLER}:
                cell.verdict = Verdict.SUPPORTED
        else:
            # Two are the same but for a reason in brackets: "not tested (control failed)".
            same = len({verdict.split(" (")[0] for verdict in verdicts}) == 1
            cell.verdict = verdicts[0] if same else Verdict.UNDECIDED
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
    confirmed: list[MeasureVerdict] | None = None
    secondary: list[Beside] = []
    if confirming and planned and done == planned:
        complete = {study for study, seeds in whole.items() if {*planned} <= {*seeds}}
        arms = _with_twins(confirming, complete)
        confirmed = cell_verdicts(evaluations, arms, rules, scope, confirmed=True)
        for name, rule in rules.secondary.items():
            if rule.study in complete:
                other = _with_twins(_secondary_arms(evaluations, rule, confirming), complete)
                measures = cell_verdicts(evaluations, other, rules, scope, confirmed=True)
                secondary.append(Beside(name, measures, rule.why))

    def compared(named: Mapping[str, Mapping[str, str]]) -> list[Beside]:
        return [
            Beside(name, cell_verdicts(evaluations, _within(arm, name), rules, scope))
            for name, arm in named.get(profile, {}).items()
        ]

    return Verdicts(
        arms=arms,
        seeds=sorted(
            {
                seed
                for measure in exploratory
                for cell in measure.cells
                for seed in cell.difference.by_seed
            }
        ),
        exploratory=exploratory,
        confirmed=confirmed,
        confirmed_seeds=done,
        planned_seeds=planned,
        secondary=secondary,
        beside=compared(claims.comparisons.beside),
        elsewhere=compared(claims.comparisons.elsewhere),
        authors=cell_verdicts(evaluations, AUTHORS_ARMS, rules, "exact"),
    )


def _with_twins(arms: Arms, complete: Collection[str]) -> Arms:
    """The arms with those twins whose study is complete."""
    twins = [twin for twin in arms.twins if twin.split("/")[0] in complete]
    return arms.model_copy(update={"twins": twins})


def _secondary_arms(evaluations: Evaluations, rule: SecondaryRule, confirming: Arms) -> Arms:
    """The arm of the rule against its own MMCL + SSL models, or else against the confirmed ones."""
    arm = f"{rule.study}/{rule.variant}"
    objectives = evaluations.frame.pretrain_objective[evaluations.frame.arm == arm]
    mmcl_ssl = arm if "mmcl_ssl" in set(objectives) else confirming.mmcl_ssl
    return Arms(mmcl_ssl=mmcl_ssl, mmcl={rule.variant: arm}, twins=rule.twins)


def _within(arm: str, name: str) -> Arms:
    """Both objectives of one arm."""
    return Arms(mmcl_ssl=arm, mmcl={name: arm})
