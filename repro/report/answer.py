"""The answer in six lines: what README, page, article and findings say first.

Each line is a question with a short answer and a few sentences, over the confirmed verdicts. The
conditions under them have the numbers of all other comparisons.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from repro.report.cells import OBJECTIVES
from repro.report.conditions import ELSEWHERE, MATCHED, Condition, by_defence, conditions
from repro.report.contrasts import SUPPORTING, Estimate, Verdict
from repro.report.draws import STUDY as DRAWS
from repro.report.draws import Draws
from repro.report.format import amount, bounds_in_words, factor, label, percent, rate
from repro.report.judgements import JudgedHypothesis
from repro.report.scales import Larger
from repro.report.verdicts import AGAINST, Beside, CellVerdict, MeasureVerdict, Verdicts
from repro.spec import Objective

LOWER = (Verdict.REFUTED, AGAINST[Verdict.REFUTED])
"""Verdicts by which MMCL + SSL models are not higher by what counts."""
HIGHER = {*SUPPORTING, AGAINST[Verdict.SUPPORTED]} - {Verdict.NEGLIGIBLE}
"""Verdicts by which they are."""
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
    larger: Larger | None,
) -> Answer | None:
    """The answer in six lines; None before all seeds of the confirmation are archived.

    `learning_rate` is the one at which the ASR left is measured; `hypotheses` are those of studies,
    `larger` is the larger scale.
    """
    if verdicts.confirmed is None:
        return None

    of = {measure.measure: measure for measure in verdicts.confirmed}
    found = conditions(verdicts, draws, hypotheses, larger)
    defences = by_defence(verdicts.beside)
    left, lost = of["asr_left_at_rate"], of["lost_at_cap"]
    harder = _harder(left, of["rate_doublings"], found, learning_rate)
    deployed = _deployed(of.get("accuracy_at_cap"), found, _word([left.verdict]) == "yes")
    lines = [
        harder,
        _cleaned(lost, found, verdicts.beside),
        deployed,
        *_other_defences(
            verdicts.beside, left.negligible, hypotheses.get(REVERSAL, []), learning_rate
        ),
        _range_of(len(verdicts.confirmed_seeds), found),
        Line(
            "Are the models safe to use?",
            "no",
            "Every poisoned model that this package trains carries a backdoor on purpose, and "
            "a cleaned one may keep some of it.",
        ),
    ]
    headline = " ".join(
        [
            DIRECTION.get(harder.answer, DIRECTION["undecided"]),
            COST.get(lost.verdict, "That cleaning them costs more accuracy is not shown."),
            ADVICE[deployed.answer],
        ]
    )
    numbers = list(_numbers(of, found[0], learning_rate))
    return Answer(headline, numbers, lines, [*found, *defences])


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


DIRECTION = {
    "yes": "At this scale MMCL + SSL models are harder to clean by CleanCLIP, as the paper says.",
    "no": "At this scale MMCL + SSL models are not harder to clean by CleanCLIP.",
    "undecided": "At this scale it is not shown that MMCL + SSL models are harder to clean by "
    "CleanCLIP.",
}
COST: dict[str, str] = {
    Verdict.LIKE_PAPER: "Cleaning them costs more accuracy, as much as in the paper.",
    Verdict.SMALLER: "Cleaning them costs more accuracy than cleaning MMCL models, by less than in "
    "the paper.",
    Verdict.SUPPORTED: "Cleaning them costs more accuracy.",
    Verdict.NEGLIGIBLE: "Cleaning them costs hardly more accuracy.",
}
ADVICE = {
    "yes": "It is better to pre-train with MMCL alone.",
    "no": "With the ResNet, pre-training with MMCL alone is no better, for those who can measure "
    "the ASR.",
    "undecided": "Whether it is better to pre-train with MMCL alone is open.",
}
"""The three parts of the claim, by what is found of them."""


def _harder(
    left: MeasureVerdict,
    rates: MeasureVerdict,
    found: Sequence[Condition],
    learning_rate: float | None,
) -> Line:
    before = [asr for cell in _first(left) for asr in cell.start_asr.values()]
    points, times = (found[0].differences[of.measure] for of in (left, rates))
    return Line(
        "Are MMCL + SSL models harder to clean by CleanCLIP?",
        _word([left.verdict, rates.verdict]),
        f"Before cleaning the ASR is {_range(before)}% on both. At a learning rate of "
        f"{rate(learning_rate)} CleanCLIP leaves {_levels(left, 'mmcl_ssl')}% on MMCL + SSL "
        f"models, by setting, and {_levels(left, 'mmcl')}% on MMCL models: a mean difference of "
        f"{_points(points, ' points')}{_elsewhere(found, left.measure, percent)}. "
        f"Cleaning MMCL + SSL models takes {_factor(times)} times the learning rate"
        f"{_elsewhere(found, rates.measure, factor)}.",
    )


def _levels(measure: MeasureVerdict, objective: Objective) -> str:
    """The lowest and the highest setting, of the models of one objective."""
    return _ends([getattr(cell, objective) for cell in _first(measure)], percent)


def _elsewhere(found: Sequence[Condition], measure: str, words: Callable[[float], str]) -> str:
    """The least and the most under all conditions but the first; alone those at another rate."""
    others = [of for of in found[1:] if measure in of.differences]
    alone = [of for of in others if measure == "asr_left_at_rate" and of.rate is not None]
    together = [of.differences[measure] for of in others if of not in alone]

    says = f", and {_ends(together, words)} under other conditions" if together else ""
    for of in alone:
        marked = " (exploratory)" if of.exploratory else ""
        found_there = words(of.differences[measure].mean)
        says += f"; {of.says}, {found_there} at a rate of {rate(of.rate)}{marked}"
    return says


def _ends(estimates: Sequence[Estimate], words: Callable[[float], str]) -> str:
    """The least and the most of several means."""
    ends = [end(estimates, key=lambda of: of.mean) for end in (min, max)]
    return " to ".join(f"{_bound(of)}{words(of.mean)}" for of in ends)


def _cleaned(lost: MeasureVerdict, found: Sequence[Condition], beside: Sequence[Beside]) -> Line:
    ssl = [cell.control_ssl for cell in _first(lost) if cell.control_ssl]
    cleaned, every = sum(of.cleaned for of in ssl), sum(of.seeds for of in ssl)
    seeds = max((of.seeds for of in ssl), default=0)
    sizes = Counter(label(cell.dataset) for cell in _first(lost))
    shared = [f"; those of {name} clean the same models" for name, of in sizes.items() if of > 1]
    text = (
        f"Some learning rate of CleanCLIP cleans them in {cleaned} of {every} cases ({seeds} "
        f"seeds in {len(ssl)} settings{''.join(shared)}){_cleaned_beside(beside)}. They lose "
        f"{_levels(lost, 'mmcl_ssl')}% of their accuracy, by setting. MMCL models lose "
        f"{_levels(lost, 'mmcl')}%, and by the paper hardly any. The mean difference is "
        f"{_points(found[0].differences[lost.measure], ' points')}"
        f"{_elsewhere(found, lost.measure, percent)}."
    )
    paper = lost.paper or {}
    like = {
        label(cell.dataset): (cell.difference, paper[cell.dataset])
        for cell in _first(lost)
        if cell.clean_size == "100k" and cell.dataset in paper
    }
    if like:
        ours = [f"{_bound(of)}{percent(of.mean)} ({name})" for name, (of, _) in like.items()]
        printed = [f"{100 * value:.0f}" for _, value in like.values()]
        text += (
            f" In the 100K settings it is {' and '.join(ours)}; in the paper "
            f"{' and '.join(printed)}."
        )
    return Line(
        "Can they be cleaned, and at what cost?",
        "yes" if cleaned == every else "some" if cleaned else "no",
        text,
    )


def _cleaned_beside(beside: Sequence[Beside]) -> str:
    """How many of the seeds on which another defence was tried CleanCLIP cleans as well."""
    cells = [cell for entry in beside[:1] for measure in entry.measures for cell in measure.cells]
    controls = [cell.control_ssl for cell in cells if cell.control_ssl]
    if not controls:
        return ""
    return f", and on {controls[0].seeds} other seeds in {controls[0].cleaned}"


DEPLOYED = {"no": "MMCL + SSL", "yes": "MMCL"}
"""The cleaned model to take, by whether it is better to pre-train with MMCL alone."""


def _deployed(
    accuracy: MeasureVerdict | None, found: Sequence[Condition], more_is_left: bool
) -> Line:
    question = "Is it better to pre-train with MMCL alone?"
    main = found[0].differences.get("accuracy_at_cap")
    if accuracy is None or main is None:
        says = "On no seed are the models of both objectives cleaned in all settings."
        return Line(question, "undecided", says)

    cells = _first(accuracy)
    signs = [value > 0 for cell in cells for value in cell.difference.by_seed.values()]
    before = [_range(cell.start_accuracy[name] for cell in cells) for name in ("mmcl_ssl", "mmcl")]
    text = (
        f"At equal epochs the cleaned MMCL + SSL model is the more accurate one in {sum(signs)} of "
        f"{len(signs)} pairs of equal seed and setting, by {_points(main, ' points')}. Before "
        f"cleaning its accuracy is {before[0]}%, that of the MMCL model {before[1]}%."
    )
    word = _better(accuracy, main)
    matched = [of for of in found if of.name == MATCHED and accuracy.measure in of.differences]
    for condition in matched:
        difference = condition.differences[accuracy.measure]
        text += (
            " At about equal cost, against MMCL models of twice the epochs, the difference is "
            f"{_points(difference, ' points')}{_ahead(difference, accuracy.negligible)} "
            f"({condition.settings})."
        )
    if word in DEPLOYED:
        text += (
            f" At equal epochs one would deploy the cleaned {DEPLOYED[word]} model, if one can "
            "measure the ASR: that takes the trigger."
        )
    for condition in found:
        there = condition.differences.get(accuracy.measure)
        if word != "no" or condition.name not in ELSEWHERE or there is None:
            continue
        if there.limits and there.limits[1] < 0:
            text += (
                f" It is otherwise {condition.says}: there the cleaned MMCL model is ahead, with a "
                f"difference of {_points(there, ' points')} (exploratory)."
            )
    if more_is_left:
        text += (
            " Without the trigger nobody sees which rate cleans, and at one rate for both "
            "CleanCLIP leaves more of the backdoor on MMCL + SSL models."
        )
    return Line(question, word, text)


def _better(accuracy: MeasureVerdict, difference: Estimate) -> str:
    """Whether MMCL alone is: not where MMCL + SSL models are higher, and only where they are surely
    lower.
    """
    if _word([accuracy.verdict]) == "yes":
        return "no"
    limits = difference.limits
    lower = accuracy.verdict in LOWER and limits is not None and limits[1] < 0
    return "yes" if lower else "undecided"


def _ahead(difference: Estimate, negligible: float) -> str:
    """Whether one model is surely ahead, or surely by next to nothing."""
    if difference.limits is None:
        return ""
    low, high = difference.limits
    if -negligible < low and high < negligible:
        return ": neither is ahead"
    return ": which is ahead is not decided" if low <= 0 <= high else ""


def _other_defences(
    beside: Sequence[Beside],
    negligible: float,
    reversal: Sequence[JudgedHypothesis],
    learning_rate: float | None,
) -> Iterator[Line]:
    """How much more is left on MMCL + SSL models, by what cleaned them at the same rate.

    Nothing where only CleanCLIP is there.
    """
    left = {
        entry.name: measure.cells[0]
        for entry in beside
        for measure in entry.measures
        if measure.measure == "asr_left_at_rate" and measure.cells
    }
    if len(left) < 2:
        return

    told = [
        f"{_points(cell.difference, ' points')} when {says} ({percent(cell.mmcl_ssl.mean)} and "
        f"{percent(cell.mmcl.mean)}%)"
        for says, cell in left.items()
    ]
    last = [*left.values()][-1].difference
    low, high = last.limits or (-1.0, 1.0)
    word = "undecided"
    if low > 0:
        word = "yes"
    elif high < negligible:
        word = "not for the one that was tried"
    yield Line(
        "Does it hold for another defence?",
        word,
        f"On {last.seeds} other seeds the ASR of MMCL + SSL models is higher than that of MMCL "
        f"models by {' and '.join(told)}, at a learning rate of {rate(learning_rate)} "
        f"(exploratory; PAR is Perturb and Recover, a later defence).{_reversed(reversal)}",
    )


def _reversed(judged: Sequence[JudgedHypothesis]) -> str:
    """On which models the other defence leaves more of another trigger: the last hypothesis."""
    last = judged[-1] if judged else None
    if last is None or last.sum is None or last.verdict != Verdict.SUPPORTED:
        return ""
    return (
        " With a patch of stripes it is the other way round: PAR leaves "
        f"{_points(last.sum, ' points')} more on the MMCL models (learning rate "
        f"{rate(last.rate)}, {last.sum.seeds} seeds, fixed beforehand)."
    )


def _range_of(seeds: int, found: Sequence[Condition]) -> Line:
    over = f"{seeds} seeds"
    text = (
        f"A seed varies initialisation, order and views. All {seeds} seeds share one draw of "
        "poisoned pairs, patches and cleaning pairs, one target class, one trigger and one set of "
        "evaluation images. Cleaning pairs are training pairs too, unless a condition says not."
    )
    others = next((of for of in found if of.name == DRAWS), None)
    if others:
        over = f"{seeds} seeds of one draw of poisons and {others.seeds} other draws,"
        text += (
            f" Each of the {others.seeds} other draws has a seed of its own: their intervals hold "
            "the spread of draws and of seeds, all others that of seeds alone."
        )
    text += " Not among them: the paper's scale, backdoors without a patch."
    return Line("What do these numbers range over?", f"mainly {over} at small scale", text)


def _factor(of: Estimate) -> str:
    return f"{_bound(of)}{factor(of.mean)} {_interval(of, factor)}"


def _word(verdicts: Sequence[str]) -> str:
    """Whether MMCL + SSL models are the higher ones by all of these verdicts, by what counts."""
    if all(verdict in HIGHER for verdict in verdicts):
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
