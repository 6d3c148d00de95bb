"""The answer in six lines: what README, page, article and findings say first.

Each line is a question with a short answer and a few sentences, over the confirmed verdicts. The
conditions under them have the numbers of all other comparisons.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from repro.report.cells import OBJECTIVES
from repro.report.conditions import MATCHED, Condition, conditions
from repro.report.contrasts import SUPPORTING, Estimate, Verdict
from repro.report.draws import STUDY as DRAWS
from repro.report.draws import Draws
from repro.report.format import amount, bounds_in_words, factor, label, percent, rate
from repro.report.judgements import JudgedHypothesis
from repro.report.verdicts import AGAINST, Beside, CellVerdict, MeasureVerdict, Verdicts

LOWER = (Verdict.REFUTED, AGAINST[Verdict.REFUTED])
"""Verdicts by which MMCL + SSL models are not higher."""
REVERSAL = "reversal"
"""Study of which defence leaves less of stripes."""


@dataclass(frozen=True)
class Line:
    """One line of the answer."""

    question: str
    answer: str
    says: str


@dataclass(frozen=True)
class Number:
    """A number that stands large on the first screen."""

    value: str
    says: str


@dataclass(frozen=True)
class Answer:
    """The answer to the paper's claim."""

    headline: str
    numbers: list[Number]
    lines: list[Line]
    conditions: list[Condition]
    """The numbers that the lines summarise, the first comparator first."""


def answer(
    verdicts: Verdicts,
    draws: Draws | None,
    learning_rate: float | None,
    hypotheses: Mapping[str, Sequence[JudgedHypothesis]],
    larger: Sequence[MeasureVerdict],
) -> Answer | None:
    """The answer in six lines; None before all seeds of the confirmation are archived.

    `learning_rate` is the one at which the ASR left is measured; `hypotheses` are those of studies,
    `larger` has the verdicts at the larger scale.
    """
    if verdicts.confirmed is None:
        return None

    of = {measure.measure: measure for measure in verdicts.confirmed}
    found = conditions(verdicts, draws, hypotheses, larger)
    by_defence = _by_defence(found, verdicts.beside) + _reversed(hypotheses.get(REVERSAL, []))
    harder = _harder(of["asr_left_at_rate"], of["rate_doublings"], found, by_defence, learning_rate)
    deployed = _deployed(of.get("accuracy_at_cap"), found)
    lines = [
        harder,
        _impossible(of["lost_at_cap"]),
        _how_much(of["lost_at_cap"], found),
        deployed,
        _range_of(len(verdicts.confirmed_seeds), found),
        Line(
            "Are the models safe to use?",
            "no",
            "Every poisoned model that this package trains carries a backdoor on purpose, and "
            "a cleaned one may keep some of it.",
        ),
    ]
    holds = {
        "direction": harder.answer == "yes",
        "strength": of["lost_at_cap"].verdict == Verdict.LIKE_PAPER,
        "advice": deployed.answer == "yes",
    }
    return Answer(_headline(holds), list(_numbers(of, found[0], learning_rate)), lines, found)


def _numbers(
    of: Mapping[str, MeasureVerdict], first: Condition, learning_rate: float | None
) -> Iterator[Number]:
    """ASR left, the factor of the rates, and the accuracy when cleaned."""
    cells = _first(of["asr_left_at_rate"])
    left = [[100 * getattr(cell, name).mean for cell in cells] for name in OBJECTIVES[::-1]]
    yield Number(
        " vs ".join(f"{min(of):.0f}–{max(of):.0f}%" for of in left),
        "of attacks still succeed, on MMCL + SSL models against MMCL models, after CleanCLIP at a "
        f"learning rate of {rate(learning_rate)}: the least and the most of {len(cells)} settings.",
    )
    rates = first.differences["rate_doublings"]
    yield Number(
        f"{_bound(rates)}{factor(rates.mean)} times",
        f"{_interval(rates, factor)} at 95%: the learning rate that cleans MMCL + SSL models, over "
        f"the one that cleans MMCL models, as the mean of {len(cells)} settings.",
    )
    if cleaned := first.differences.get("accuracy_at_cap"):
        yield Number(
            f"{amount(cleaned.mean, 'fraction', signed=True)} points",
            f"of accuracy {_interval(cleaned, percent)} at 95%: the cleaned MMCL + SSL model less "
            f"the cleaned MMCL model, as the mean of {len(cells)} settings.",
        )


PARTS = {
    "direction": "MMCL + SSL models are harder to clean by CleanCLIP",
    "strength": "cleaning them costs as much accuracy as it says",
    "advice": "one should pre-train with MMCL alone",
}
"""What the parts of the claim say."""


def _headline(holds: Mapping[str, bool]) -> str:
    """Which parts of the claim are right and which are not."""
    right, wrong = (
        [f"that {PARTS[name]}" for name, of in holds.items() if of is wanted]
        for wanted in (True, False)
    )
    if not right:
        return f"At this scale the paper is not right {' or '.join(wrong)}."
    but = f", but not {' or '.join(wrong)}" if wrong else ""
    return f"At this scale the paper is right {' and '.join(right)}{but}."


def _harder(
    left: MeasureVerdict,
    rates: MeasureVerdict,
    found: Sequence[Condition],
    by_defence: str,
    learning_rate: float | None,
) -> Line:
    cells = _first(left)
    of_both = [_range(getattr(cell, name).mean for cell in cells) for name in ("mmcl_ssl", "mmcl")]
    points, times = (found[0].differences[of.measure] for of in (left, rates))
    return Line(
        "Are MMCL + SSL models harder to clean?",
        _word([left.verdict, rates.verdict]),
        f"After CleanCLIP at a learning rate of {rate(learning_rate)} an ASR of {of_both[0]}% is "
        f"left on them, by setting, and of {of_both[1]}% on MMCL models. The mean difference is "
        f"{_points(points, ' points')}{_elsewhere(found, left.measure, percent)}. Cleaning them "
        f"takes {_factor(times)} times the learning rate"
        f"{_elsewhere(found, rates.measure, factor)}.{by_defence}",
    )


def _elsewhere(found: Sequence[Condition], measure: str, words: Callable[[float], str]) -> str:
    """The least and the most under all conditions but the first, without the exploratory ones."""
    others = [
        of.differences[measure]
        for of in found[1:]
        if measure in of.differences and not of.exploratory
    ]
    if not others:
        return ""
    ends = [end(others, key=lambda of: of.mean) for end in (min, max)]
    least, most = (f"{_bound(of)}{words(of.mean)}" for of in ends)
    return f", and {least} to {most} under other conditions"


def _by_defence(found: Sequence[Condition], beside: Sequence[Beside]) -> str:
    """How much more is left on MMCL + SSL models, by what cleaned them at the same rate."""
    names = {entry.name for entry in beside}
    told = [
        f"{_points(of.differences['asr_left_at_rate'], ' points')} when {of.says}"
        for of in found
        if of.name in names
    ]
    if not told:
        return ""
    return (
        f" It depends on the defence: on other seeds the difference is {' and '.join(told)} "
        "(exploratory; PAR is Perturb and Recover, a later defence)."
    )


def _reversed(judged: Sequence[JudgedHypothesis]) -> str:
    """On which models the other defence leaves more of another trigger: the last hypothesis."""
    last = judged[-1] if judged else None
    if last is None or last.sum is None or last.verdict != Verdict.SUPPORTED:
        return ""
    return (
        f" With a patch of stripes, PAR at a learning rate of {rate(last.rate)} leaves "
        f"{_points(last.sum, ' points')} more of the ASR on MMCL models than on MMCL + SSL models "
        f"({last.sum.seeds} seeds, fixed beforehand)."
    )


def _impossible(lost: MeasureVerdict) -> Line:
    cells = _first(lost)
    ssl = [cell.control_ssl for cell in cells if cell.control_ssl]
    cleaned, every = sum(of.cleaned for of in ssl), sum(of.seeds for of in ssl)
    seeds = max((of.seeds for of in ssl), default=0)
    costs = [_range(getattr(cell, name).mean for cell in cells) for name in ("mmcl_ssl", "mmcl")]
    return Line(
        "Are they impossible to clean?",
        "no" if cleaned == every else "some are" if cleaned else "yes",
        f"CleanCLIP cleans MMCL + SSL models in {cleaned} of {every} cases ({seeds} seeds in "
        f"{len(cells)} settings; those of one dataset share its models), at a loss of "
        f"{costs[0]}% of their accuracy, by setting. MMCL models lose {costs[1]}%; by the paper "
        "they hardly lose any.",
    )


def _how_much(lost: MeasureVerdict, found: Sequence[Condition]) -> Line:
    printed = " and ".join(
        f"{100 * value:.0f} ({label(dataset)})" for dataset, value in (lost.paper or {}).items()
    )
    return Line(
        "How much more accuracy does cleaning them cost?",
        f"{_points(found[0].differences[lost.measure], ' points')}",
        "Of its accuracy, an MMCL + SSL model loses that many points more than an MMCL model"
        f"{_elsewhere(found, lost.measure, percent)}. In the paper it is {printed}, with 100K "
        "pairs.",
    )


DEPLOYED = {"no": "MMCL + SSL", "yes": "MMCL"}
"""The cleaned model to take, by whether it is better to pre-train with MMCL alone."""


def _deployed(accuracy: MeasureVerdict | None, found: Sequence[Condition]) -> Line:
    question = "Is it better to pre-train with MMCL alone?"
    main = found[0].differences.get("accuracy_at_cap")
    if accuracy is None or main is None:
        says = "On no seed are the models of both objectives cleaned in all settings."
        return Line(question, "undecided", says)

    signs = [value > 0 for cell in _first(accuracy) for value in cell.difference.by_seed.values()]
    text = (
        f"The cleaned MMCL + SSL model is the more accurate one in {sum(signs)} of {len(signs)} "
        f"pairs of equal seed and setting, by {_points(main, ' points')} of accuracy."
    )
    word = {"yes": "no", "no": "yes"}.get(higher := _word([accuracy.verdict]), higher)
    for condition in found:
        if condition.name == MATCHED and (
            difference := condition.differences.get(accuracy.measure)
        ):
            low, high = difference.interval or (-1.0, 1.0)
            alike = ": neither is ahead" if low <= 0 <= high else ""
            text += (
                " Against MMCL models of twice the epochs, whose training costs about as much, the "
                f"difference is {_points(difference)}{alike} ({condition.settings})."
            )
    if word in DEPLOYED:
        text += (
            " At equal epochs a defender who knows the trigger, and so can measure the ASR, would "
            f"deploy the cleaned {DEPLOYED[word]} model."
        )
    return Line(question, word, text)


def _range_of(seeds: int, found: Sequence[Condition]) -> Line:
    over = f"{seeds} seeds"
    text = (
        f"A seed varies initialisation, order and views. All {seeds} seeds share one draw of "
        "poisoned pairs, patches and cleaning pairs, one target class, one trigger and one set of "
        "evaluation images."
    )
    others = next((of for of in found if of.name == DRAWS), None)
    if others:
        over = f"{seeds} seeds of one draw of poisons and {others.seeds} other draws,"
        text += (
            f" Each of the {others.seeds} other draws has a seed of its own: their intervals hold "
            "the spread of draws and of seeds, all others that of seeds alone."
        )
    text += " Not shown: the paper's scale, backdoors without a patch."
    return Line("What do these numbers range over?", f"{over} at small scale", text)


def _factor(of: Estimate) -> str:
    return f"{_bound(of)}{factor(of.mean)} {_interval(of, factor)}"


def _word(verdicts: Sequence[str]) -> str:
    """Whether MMCL + SSL models are the higher ones by all of these verdicts."""
    if all(verdict in {*SUPPORTING, *AGAINST.values()} - set(LOWER) for verdict in verdicts):
        return "yes"
    return "no" if all(verdict in LOWER for verdict in verdicts) else "undecided"


def _first(measure: MeasureVerdict) -> list[CellVerdict]:
    """The settings against the first comparator."""
    return [cell for cell in measure.cells if cell.comparator == measure.cells[0].comparator]


def _range(fractions: Iterable[float]) -> str:
    """The lowest and the highest in percent."""
    known = sorted(fractions)
    return f"{percent(known[0])} to {percent(known[-1])}"


def _points(of: Estimate, unit: str = "") -> str:
    return f"{_bound(of)}{percent(of.mean)}{unit} {_interval(of, percent)}".rstrip()


def _bound(of: Estimate) -> str:
    return bounds_in_words(vars(of))


def _interval(of: Estimate, words: Callable[[float], str]) -> str:
    return f"[{', '.join(map(words, of.interval))}]" if of.interval else ""
