"""Under which conditions the comparison was made: MMCL + SSL less MMCL models by four measures.

A condition is a comparator, other cleaning pairs, other draws, another task, model, scale or
defence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from repro.report.contrasts import Estimate, Verdict, mean_of
from repro.report.draws import STUDY as DRAWS
from repro.report.draws import Draws
from repro.report.format import label
from repro.report.judgements import JudgedHypothesis
from repro.report.scales import Larger
from repro.report.studies import LARGER
from repro.report.verdicts import WEAK, Beside, CellVerdict, MeasureVerdict, Verdicts
from repro.spec import CleanSize, Dataset

MEASURES = ("asr_left_at_rate", "rate_doublings", "lost_at_cap", "accuracy_at_cap")
GROUPS = {
    "confirmed": "against MMCL models with BatchNorm groups of 32 pairs",
    "norm_groups_64": "against MMCL models with groups of 64 pairs, which MMCL + SSL models have",
}
"""Comparators of the confirmed verdicts, in words."""
MATCHED = "matched"
SECONDARY = {
    MATCHED: "against MMCL models of twice the epochs, which cost about as much",
    "held_out": "with cleaning pairs that pre-training has not seen",
}
"""Secondary comparisons in specs/claims.yaml, in words."""
ELSEWHERE = {
    "scenes": "with images of two things, under captions that name both",
    "vit": "with a vision transformer, which has no BatchNorm, in place of the ResNet",
}
"""Studies that repeat the comparison on another task or with another model, in words."""
WITH_WEAK = ", with a weak backdoor"


@dataclass(frozen=True)
class Condition:
    """The differences under one condition."""

    name: str
    """The key of the comparator, comparison or study."""
    says: str
    settings: str
    seeds: int
    differences: dict[str, Estimate]
    """By measure, as means over the settings."""
    exploratory: bool = False
    rate: float | None = None
    """Learning rate of the ASR left, where it is not that of the answer."""


def conditions(
    verdicts: Verdicts,
    draws: Draws | None,
    hypotheses: Mapping[str, Sequence[JudgedHypothesis]],
    larger: Larger | None,
) -> list[Condition]:
    """Those of CleanCLIP, the first comparator of the confirmed verdicts first.

    None without a number.
    """
    every = [
        *_confirmed(verdicts.confirmed or []),
        *_secondary(verdicts.secondary),
        *_over_draws(draws),
        *_elsewhere(hypotheses, verdicts.elsewhere),
    ]
    if larger is not None:
        of_larger = _within(LARGER, f"at the larger scale, {LARGER}", larger.measures)
        every.append(replace(of_larger, rate=larger.evaluations.context.rate))
    return [condition for condition in every if condition.differences]


def by_defence(entries: Sequence[Beside]) -> list[Condition]:
    """What another defence than CleanCLIP leaves, beside CleanCLIP on the same seeds."""
    every = [_within(entry.name, entry.name, entry.measures) for entry in entries]
    return [condition for condition in every if condition.differences]


def _confirmed(measures: Sequence[MeasureVerdict]) -> Iterator[Condition]:
    """One a comparator; without the measures that some setting lacks."""
    cells = [cell for measure in measures for cell in measure.cells]
    settings = {(cell.dataset, cell.clean_size) for cell in cells}
    for comparator in dict.fromkeys(cell.comparator for cell in cells):
        found = {}
        for measure in measures:
            of = [cell.difference for cell in measure.cells if cell.comparator == comparator]
            # A seed without a cleaned model has no accuracy of it.
            if len(of) == len(settings) and (mean := mean_of(of)):
                found[measure.measure] = mean
        yield _condition(comparator, GROUPS.get(comparator, comparator), _settings(cells), found)


def _secondary(entries: Sequence[Beside]) -> Iterator[Condition]:
    """One a comparison, without the measures that were not tested."""
    measures = {entry.name: _tested(entry.measures) for entry in entries}
    for name, words in SECONDARY.items():
        of = measures.get(name, [])
        found = {measure.measure: measure.pooled.difference for measure in of if measure.pooled}
        cells = [cell for measure in of for cell in measure.cells]
        yield _condition(name, words, _settings(cells), found)


def _over_draws(draws: Draws | None) -> Iterator[Condition]:
    """One a setting; none of a study that is not whole."""
    if draws is None or draws.complete < draws.planned:
        return

    others = f"{draws.planned} other draws of poisons"
    words = f"over {others}, {draws.other_targets} with another target class"
    found: dict[str, dict[str, Estimate]] = {}
    for row in draws.rows:
        where = _setting(row.dataset, row.clean_size)
        found.setdefault(where, {})[row.measure] = row.difference
    for where, differences in found.items():
        yield _condition(DRAWS, words, where, differences)


def _elsewhere(
    hypotheses: Mapping[str, Sequence[JudgedHypothesis]], entries: Sequence[Beside]
) -> Iterator[Condition]:
    """One a study; none of a study that is not whole. Of the accuracy there is no hypothesis."""
    accuracy = {
        entry.name: measure.cells[0].difference
        for entry in entries
        for measure in entry.measures
        if measure.measure == "accuracy_at_cap"
    }
    for name, words in ELSEWHERE.items():
        judged = hypotheses.get(name, [])
        if not judged or any(row.verdict == Verdict.INCOMPLETE for row in judged):
            continue
        found = {str(row.measure): row.sum for row in judged if row.sum}
        if name in accuracy:
            found["accuracy_at_cap"] = accuracy[name]
        rates = [row.rate for row in judged if row.rate is not None]
        says = f"{words}{WITH_WEAK if any(row.weak for row in judged) else ''}"
        condition = _condition(name, says, _setting(*judged[0].setting), found)
        yield replace(condition, rate=rates[0] if rates else None)


def _within(name: str, says: str, measures: Sequence[MeasureVerdict]) -> Condition:
    """That of exploratory verdicts in one setting."""
    cells = [measure.cells[0] for measure in measures]
    weak = WITH_WEAK if any(WEAK in cell.marks for cell in cells) else ""
    found = {measure.measure: measure.cells[0].difference for measure in measures}
    return _condition(name, f"{says}{weak}", _settings(cells), found, exploratory=True)


def _tested(measures: Sequence[MeasureVerdict]) -> list[MeasureVerdict]:
    return [of for of in measures if not of.verdict.startswith(Verdict.NOT_TESTED)]


def _condition(
    name: str,
    says: str,
    settings: str,
    found: Mapping[str, Estimate],
    exploratory: bool = False,
) -> Condition:
    differences = {measure: found[measure] for measure in MEASURES if measure in found}
    seeds = max((of.seeds for of in differences.values()), default=0)
    return Condition(name, says, settings, seeds, differences, exploratory)


def _settings(cells: Sequence[CellVerdict]) -> str:
    """The setting of the cells, or how many they have."""
    found = [*dict.fromkeys(_setting(cell.dataset, cell.clean_size) for cell in cells)]
    if len(found) == 1:
        return found[0]
    datasets = dict.fromkeys(label(cell.dataset) for cell in cells)
    return f"{' and '.join(datasets)}, mean of {len(found)} settings"


def _setting(dataset: Dataset | None, size: CleanSize | None) -> str:
    return f"{label(dataset)}, {label(size)}"
