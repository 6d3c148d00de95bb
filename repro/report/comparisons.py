"""Does an MMCL + SSL model resist CleanCLIP more than an MMCL model? Verdicts over seeds.

The rules are those of docs/method.md; their numbers are `rules` in specs/claims.yaml. A difference
is MMCL + SSL less MMCL within a setting, one value a seed. Shares are fractions.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean
from typing import Literal, NamedTuple

import pandas as pd

from repro.report.cells import OBJECTIVES
from repro.report.claims import Arms, Claims, Condition, Rules, SecondaryRule
from repro.report.format import label
from repro.report.measures import (
    MAIN,
    CleanedModel,
    Evaluations,
    Measure,
    Models,
    at_rate,
    best_under_cap,
    judged,
)
from repro.report.seeds import (
    FEWEST_SEEDS,
    SUPPORTING,
    Estimate,
    Expected,
    Term,
    Verdict,
    contrast,
    difference,
    estimate,
    holm,
    judge,
    p_above,
    pooled,
    seeds_of,
)
from repro.spec import CleanSize, Dataset, Objective, Profile

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
OF_BEST = ("lost_at_cap", "accuracy_at_cap")
"""Measures of the best model, which say whether it is at an edge of the grid."""
EXPLORATORY = "exploratory"

Scope = Literal["proxy", "exact"]
"""Whether a verdict is on substitutes for the paper's data and model, or on these."""


class Setting(NamedTuple):
    """A row of the verdicts."""

    dataset: Dataset
    clean_size: CleanSize

    def __str__(self) -> str:
        """In words."""
        return f"{label(self.dataset)}, {label(self.clean_size)}"


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


@dataclass(frozen=True)
class Compared:
    """The models of both objectives in one setting, before they are judged by any measure."""

    setting: Setting | None
    """None for all settings together."""
    comparator: str
    """Which MMCL models."""
    terms: Mapping[str, Term]
    start_accuracy: Mapping[Objective, float]
    """Before cleaning, mean over seeds, by objective."""
    start_asr: Mapping[Objective, float]
    """Likewise."""
    weak: bool
    """Whether one of these has a weak backdoor by the rules."""
    edges: Sequence[str] = ()
    """On how many seeds a best model is at the lowest or highest learning rate."""
    controls: Mapping[Objective, Control] = field(default_factory=dict)
    """By objective; that of MMCL + SSL decides nothing. Empty for all settings together."""


@dataclass(frozen=True)
class Judged:
    """The verdict by one measure on the models of one setting, or of all settings together."""

    of: Compared
    measure: Measure
    fixed: str
    """When the measure was fixed, or EXPLORATORY."""
    mmcl: Estimate
    mmcl_ssl: Estimate
    difference: Estimate
    p: float | None
    """One-sided, of a difference above zero."""
    p_holm: float | None
    """Corrected over the settings."""
    paper: Sequence[float]
    """The paper's difference, or those of all settings."""
    alone: str
    """The verdict against this comparator."""
    reason: str
    verdict: str = ""
    """The verdict against all comparators."""
    marks: Sequence[str] = ()
    """What the rules mark."""

    @property
    def words(self) -> str:
        """Setting in words."""
        return str(self.of.setting or "all settings")


@dataclass(frozen=True)
class Verdicts:
    """All verdicts over seeds; each list has all measures in all settings."""

    arms: Arms
    """Of the confirmed verdicts, or else the exploratory ones: an archived study's, or OWN."""
    exploratory: list[Judged]
    confirmed: list[Judged]
    """Empty until all planned seeds are archived."""
    confirmed_seeds: list[int]
    """Archived so far."""
    planned_seeds: list[int]
    secondary: dict[str, list[Judged]]
    """Comparisons that stand apart from the claims, fixed with the rules."""

    @property
    def leading(self) -> list[Judged]:
        """Those that stand first; empty where no seed was run."""
        return self.confirmed or self.exploratory

    @property
    def seeds(self) -> list[int]:
        """Seeds of those that stand first."""
        if self.confirmed:
            return self.confirmed_seeds
        return sorted({seed for of in self.exploratory for seed in of.difference.by_seed})


def scope_of(profile: Profile) -> Scope:
    """Whether the data of a profile are the paper's."""
    return "proxy" if profile.data.stand_in else "exact"


def first(cells: Iterable[Judged], measure: str = "") -> list[Judged]:
    """The settings against the first comparator, by one measure or by all; none pooled."""
    own = [cell for cell in cells if measure in ("", cell.measure.name)]
    return [cell for cell in own if cell.of.setting and cell.of.comparator == own[0].of.comparator]


def in_all_settings(cells: Iterable[Judged], measure: str) -> Judged | None:
    """The verdict over all settings together; None where some setting lacks the measure."""
    return next(
        (cell for cell in cells if cell.measure.name == measure and not cell.of.setting), None
    )


def positive_control(
    models: Mapping[int, CleanedModel],
    twins: Mapping[int, CleanedModel],
    rules: Rules,
    objective: Objective,
) -> Control:
    """Whether CleanCLIP cleans models and costs them no more than their twins."""
    cap = next(iter(models.values())).context.cap
    lost = {seed: 1 - of.best.kept for seed, of in models.items() if of.best is not None}
    excess = {
        seed: more
        for seed, of in models.items()
        if seed in twins and (more := _more_than_twin(of, twins[seed])) is not None
    }
    loss, twin_loss = (_plain(of, rules.level) if of else None for of in (lost, excess))

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


def _plain(by_seed: Mapping[int, float], level: float) -> Estimate:
    """The mean of values that are no bounds."""
    values = pd.Series(by_seed)
    return estimate(pd.DataFrame({"value": values, "low": values, "high": values}), level)


def _more_than_twin(model: CleanedModel, twin: CleanedModel) -> float | None:
    """How much more accuracy the best model loses than its twin, among the rates and steps at which
    both were evaluated.
    """
    keys = ["learning_rate", "step"]
    both = model.points.merge(twin.points[[*keys, "kept"]], on=keys, suffixes=("", "_twin"))
    best = best_under_cap(both, model.context.cap)
    return None if best is None else float(best.kept_twin - best.kept)


def judged_cells(
    values: pd.DataFrame,
    evaluations: Evaluations,
    arms: Arms,
    rules: Rules,
    confirmed: bool = False,
) -> list[Judged]:
    """Every measure in every setting that has runs of both models, and over all settings;
    `confirmed` where rules and arms were fixed before the runs.
    """
    by_comparator: dict[str, list[Compared]] = {}
    for compared in _compared(evaluations, arms, rules):
        by_comparator.setdefault(compared.comparator, []).append(compared)
    found = {
        name: [contrast(values, of.terms) for of in settings]
        for name, settings in by_comparator.items()
    }
    cells = []
    for measure in judged(rules.measures):
        of_measure = [
            cell
            for name, settings in by_comparator.items()
            for cell in _by_measure(measure, settings, found[name], rules)
        ]
        # Those of all settings together stand last.
        of_measure.sort(key=lambda cell: cell.of.setting is None)
        main = next(iter(by_comparator), "")
        for cell in _against_all(of_measure, [*by_comparator]):
            # The mean of the settings stands with the first comparator.
            if cell.of.setting or cell.of.comparator == main:
                cells.append(cell)
    return [_marked(cell, rules, confirmed) for cell in cells]


def _compared(evaluations: Evaluations, arms: Arms, rules: Rules) -> Iterator[Compared]:
    """One a comparator and setting in which some seed has the models of both objectives."""
    for (name, arm), (dataset, size) in product(arms.mmcl.items(), rules.cells):
        terms = difference([arm], [arms.mmcl_ssl], dataset, size)
        models = {of.models.objective: evaluations.models(of.models) for of in terms.values()}
        if not set.intersection(*(set(by_seed) for by_seed in models.values())):
            continue
        controls = {
            objective: positive_control(
                by_seed, _twins(evaluations, arms, objective, dataset, size), rules, objective
            )
            for objective, by_seed in models.items()
        }
        accuracy, asr = (
            {
                objective: fmean(model.start[number] for model in by_seed.values())
                for objective, by_seed in models.items()
            }
            for number in ("accuracy", "asr")
        )
        yield Compared(
            setting=Setting(dataset, size),
            comparator=name,
            terms=terms,
            start_accuracy=accuracy,
            start_asr=asr,
            weak=min(asr.values()) < rules.weak_start,
            edges=[line for of in models.items() for line in _edges(*of)],
            controls=controls,
        )


def _twins(
    evaluations: Evaluations, arms: Arms, objective: Objective, dataset: Dataset, size: CleanSize
) -> dict[int, CleanedModel]:
    """The never-poisoned models by seed; of several arms the first that has one."""
    found: dict[int, CleanedModel] = {}
    for twin in arms.twins:
        found = evaluations.models(Models((twin,), objective, dataset, size)) | found
    return found


def _edges(objective: Objective, models: Mapping[int, CleanedModel]) -> Iterator[str]:
    for end, outermost in (("lowest", min), ("highest", max)):
        seeds = 0
        for model in models.values():
            if model.best is not None and len(model.ends) > 1:
                seeds += model.best.learning_rate == outermost(model.ends.learning_rate)
        if seeds:
            yield f"best {label(objective)} model at the {end} rate on {seeds}/{len(models)} seeds"


def _by_measure(
    measure: Measure, settings: Sequence[Compared], found: Sequence[pd.DataFrame], rules: Rules
) -> Iterator[Judged]:
    """The verdicts by a measure against one comparator: one a setting, and over all of them."""
    rule = rules.measures[measure.name]
    papers = rule.paper or {}
    totals = [seeds_of(of, measure.name).value.tolist() for of in found]
    ps = [p_above(total) for total in totals]

    own: list[Judged] = []
    for compared, of, p, p_holm in zip(settings, found, ps, holm(ps), strict=True):
        if not len(seeds_of(of, measure.name)):
            continue
        assert compared.setting
        dataset = compared.setting.dataset
        paper = [papers[dataset]] if dataset in papers else []
        cell = _judged(measure, compared, of, (p, p_holm), paper, rules)
        own.append(cell)
        yield cell
    # A mean over some of the settings would not be what the rules pool.
    if own and len(own) == len(settings):
        known = [paper for cell in own for paper in cell.paper]
        paper = known if len(known) == len(settings) else []
        yield from _pooled(measure, own, pooled(found), paper, rules)


def _judged(
    measure: Measure,
    compared: Compared,
    found: pd.DataFrame,
    ps: tuple[float | None, float | None],
    paper: Sequence[float],
    rules: Rules,
) -> Judged:
    mmcl, mmcl_ssl, total = (
        estimate(seeds_of(found, measure.name, name), rules.level) for name in (*OBJECTIVES, "sum")
    )
    rule = rules.measures[measure.name]
    expected = Expected(counts=(rule.negligible, math.inf), paper=paper, level=rules.level)
    alone, reason = _alone(measure, compared, total, expected, ps[1])
    return Judged(
        of=compared,
        measure=measure,
        fixed=str(rule.fixed),
        mmcl=mmcl,
        mmcl_ssl=mmcl_ssl,
        difference=total,
        p=ps[0],
        p_holm=ps[1],
        paper=paper,
        alone=alone,
        reason=reason,
    )


def _alone(
    measure: Measure,
    compared: Compared,
    found: Estimate,
    expected: Expected,
    p: float | None,
) -> tuple[str, str]:
    """The verdict against one comparator, and its reason."""
    if found.limits is None:
        return Verdict.UNDECIDED, f"fewer than {FEWEST_SEEDS} seeds"
    # The first measures need only that CleanCLIP removes the backdoor of the MMCL model.
    control = compared.controls.get("mmcl")
    if control and not (control.holds if measure.price else control.removes):
        word = "not run" if control.holds is None else "failed"
        return f"{Verdict.NOT_TESTED} (control {word})", control.reason
    bound = found.at_least or found.at_most
    reason = "a bound: the grid of learning rates ends too early" if bound else ""
    return judge(expected, found.limits, p), reason


def _pooled(
    measure: Measure,
    cells: Sequence[Judged],
    found: pd.DataFrame,
    paper: Sequence[float],
    rules: Rules,
) -> Iterator[Judged]:
    """The mean over the settings for each seed that all of them have; nothing without one."""
    total = seeds_of(found, measure.name)
    if total.empty:
        return
    accuracy, asr = (
        {name: fmean(getattr(cell.of, start)[name] for cell in cells) for name in OBJECTIVES}
        for start in ("start_accuracy", "start_asr")
    )
    compared = Compared(
        setting=None,
        comparator=cells[0].of.comparator,
        terms={},
        start_accuracy=accuracy,
        start_asr=asr,
        weak=any(cell.of.weak for cell in cells),
    )
    p = p_above(total.value.tolist())
    cell = _judged(measure, compared, found, (p, p), paper, rules)
    if untested := [cell for cell in cells if cell.alone.startswith(Verdict.NOT_TESTED)]:
        worst = max(untested, key=lambda cell: "failed" in cell.alone)
        where = ", ".join(
            f"{label(of.dataset)} {label(of.clean_size)}"
            for of in (cell.of.setting for cell in untested)
            if of
        )
        cell = replace(cell, alone=worst.alone, reason=f"{worst.reason} ({where})")
    yield cell


def _against_all(cells: Sequence[Judged], comparators: Sequence[str]) -> Iterator[Judged]:
    """The cells of one measure with their verdicts against every comparator: one other than
    "undecided" holds only if it holds against all.

    Of two that support the claim, the weaker one does; "smaller than the paper's" needs all. A
    comparator without the measure decides nothing.
    """
    for cell in cells:
        alone: dict[str, str] = dict.fromkeys(comparators, Verdict.UNDECIDED)
        alone |= {
            other.of.comparator: other.alone
            for other in cells
            if other.of.setting == cell.of.setting
        }
        verdict = against_all([*alone.values()])
        reason = cell.reason
        if verdict != cell.alone:
            reason = "; ".join(f"against {name}: {of}" for name, of in alone.items())
        yield replace(cell, verdict=verdict, reason=reason)


def against_all(alone: Sequence[str]) -> str:
    """The verdict that holds against every comparator."""
    if all(verdict in SUPPORTING for verdict in alone):
        weakest = min(alone, key=SUPPORTING.index)
        # That it is smaller than the paper's is a further claim, not a weaker one.
        if weakest == Verdict.SMALLER and {*alone} != {Verdict.SMALLER}:
            return Verdict.SUPPORTED
        return weakest
    # Two are the same but for a reason in brackets: "not tested (control failed)".
    same = len({verdict.split(" (")[0] for verdict in alone}) == 1
    return alone[0] if same else Verdict.UNDECIDED


def _marked(cell: Judged, rules: Rules, confirmed: bool) -> Judged:
    """The cell with the marks of the rules, and with their words for it."""
    rule = rules.measures[cell.measure.name]
    later = rule.fixed > rules.fixed
    marks = [WEAK] if cell.of.weak else []
    if cell.measure.name in OF_BEST:
        marks += cell.of.edges
    if confirmed and later:
        marks.append(LATER)
    alone, verdict = cell.alone, cell.verdict
    if rule.speaks == "against":
        alone, verdict = (AGAINST.get(word, word) for word in (alone, verdict))
    fixed = cell.fixed if confirmed and not later else EXPLORATORY
    return replace(cell, marks=marks, alone=alone, verdict=verdict, fixed=fixed)


def verdicts(
    values: pd.DataFrame,
    evaluations: Evaluations,
    claims: Claims,
    profile: str,
    whole: Mapping[str, Collection[int]],
) -> Verdicts:
    """All verdicts over seeds of a profile.

    `values` are those that `evaluations` give: of the profile's own runs (study and variant "") and
    of its studies. The exploratory verdicts are of the archived study; without it,
    of the own runs. `whole`: by study that confirms, the seeds of which all runs are archived.
    """
    rules = claims.rules
    arms = claims.comparisons.exploratory.get(profile)
    if arms is None or arms.study not in set(evaluations.frame.study):
        arms = OWN
    exploratory = judged_cells(values, evaluations, arms, rules)

    planned = rules.seeds.get(profile, [])
    confirming = claims.comparisons.confirmed.get(profile)
    done = [s for s in planned if confirming and s in whole.get(confirming.study, ())]
    confirmed: list[Judged] = []
    secondary: dict[str, list[Judged]] = {}
    if confirming and planned and done == planned:
        complete = {study for study, seeds in whole.items() if {*planned} <= {*seeds}}
        arms = _with_twins(confirming, complete)
        confirmed = judged_cells(values, evaluations, arms, rules, confirmed=True)
        for name, rule in rules.secondary.items():
            if rule.study in complete:
                other = _with_twins(_secondary_arms(evaluations, rule, confirming), complete)
                secondary[name] = judged_cells(values, evaluations, other, rules, confirmed=True)

    return Verdicts(
        arms=arms,
        exploratory=exploratory,
        confirmed=confirmed,
        confirmed_seeds=done,
        planned_seeds=planned,
        secondary=secondary,
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


@dataclass(frozen=True)
class UnderCondition:
    """The differences under one condition of specs/claims.yaml."""

    condition: Condition
    settings: str
    """In words."""
    weak: bool
    """Whether some of its models have a weak backdoor before cleaning."""
    seeds: int
    differences: dict[str, Estimate]
    """By measure, as means over the settings."""
    means: dict[str, dict[str, Estimate]]
    """By measure and objective: of the models themselves."""
    edges: list[str]
    """On how many seeds the best model lies at the lowest or highest learning rate tried."""


def under_conditions(
    values: pd.DataFrame, conditions: Iterable[Condition], rules: Rules, whole: Collection[str]
) -> dict[str, UnderCondition]:
    """The differences under each condition whose studies are `whole`, by its name."""
    found = {}
    for condition in conditions:
        studies = {arm.split("/")[0] for arm in (condition.mmcl, condition.mmcl_ssl)}
        if studies <= {*whole} and (of := _under(values, condition, rules)).differences:
            found[condition.name] = of
    return found


def _under(values: pd.DataFrame, condition: Condition, rules: Rules) -> UnderCondition:
    known = [*dict.fromkeys(values.index.get_level_values("arm"))]
    mmcl, mmcl_ssl = (condition.arms(arm, known) for arm in (condition.mmcl, condition.mmcl_ssl))
    settings = [Setting(*of) for of in condition.settings or rules.cells]
    terms = [difference(mmcl, mmcl_ssl, *setting) for setting in settings]
    by_setting = [contrast(values, of) for of in terms]
    found = pooled(by_setting)

    estimates: dict[str, Estimate] = {}
    means: dict[str, dict[str, Estimate]] = {}
    for measure in MAIN:
        name = measure
        if measure == "asr_left_at_rate" and condition.rate is not None:
            name = at_rate(condition.rate)
        if seeds_of(found, name).empty:
            continue
        estimates[measure] = estimate(seeds_of(found, name), rules.level)
        means[measure] = {
            objective: estimate(seeds_of(found, name, objective)) for objective in OBJECTIVES
        }
    starts = [
        fmean(seeds_of(of, "start_asr", objective).value)
        for of in by_setting
        for objective in OBJECTIVES
        if len(seeds_of(of, "start_asr", objective))
    ]
    return UnderCondition(
        condition=condition,
        settings=in_words(settings),
        weak=any(asr < rules.weak_start for asr in starts),
        seeds=max((of.seeds for of in estimates.values()), default=0),
        differences=estimates,
        means=means,
        edges=[*_edges_under(by_setting)],
    )


def _edges_under(by_setting: Sequence[pd.DataFrame]) -> Iterator[str]:
    for objective in OBJECTIVES:
        for end in ("lowest", "highest"):
            found = [seeds_of(of, f"best_at_{end}_rate", objective).value for of in by_setting]
            values = pd.concat(found)
            if values.any():
                yield f"{label(objective)} {end} {int(values.sum())}/{len(values)}"


def in_words(settings: Sequence[Setting]) -> str:
    """The setting, or how many there are."""
    if len(settings) == 1:
        return str(settings[0])
    datasets = dict.fromkeys(label(of.dataset) for of in settings)
    return f"{' and '.join(datasets)}, mean of {len(settings)} settings"
