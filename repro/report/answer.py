"""The answer in six lines: what README, page, article and findings say first.

Each line is a question with a short answer and one or two sentences. All numbers come from the
confirmed verdicts, their rules and the study of draws.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from repro.report.cells import OBJECTIVES
from repro.report.contrasts import SUPPORTING, Estimate, Verdict, mean_of
from repro.report.draws import COMPARED, DrawRow, Draws
from repro.report.format import amount, bounds_in_words, factor, label, percent, rate
from repro.report.judgements import JudgedHypothesis
from repro.report.verdicts import AGAINST, Beside, CellVerdict, MeasureVerdict, Verdicts

LOWER = (Verdict.REFUTED, AGAINST[Verdict.REFUTED])
"""Verdicts by which MMCL + SSL models are not higher."""
MATCHED = "matched"
OTHERS = {
    MATCHED: "against MMCL models of twice the epochs",
    "held_out": "with cleaning pairs that pre-training has not seen",
}
"""Secondary comparisons in specs/claims.yaml, in words."""
REVERSAL = "reversal"
"""Study of which defence leaves less of stripes."""
ELSEWHERE = {"scenes": "Where an image shows two things and its caption names both"}
"""Studies that repeat the comparison on another task, in words."""
Secondary = Mapping[str, Mapping[str, MeasureVerdict]]
"""Their measures, by both names."""


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


def answer(
    verdicts: Verdicts,
    draws: Draws | None,
    learning_rate: float | None,
    hypotheses: Mapping[str, Sequence[JudgedHypothesis]],
) -> Answer | None:
    """The answer in six lines; None before all seeds of the confirmation are archived.

    `learning_rate` is the one at which the ASR left is measured; `hypotheses` are those of studies.
    """
    if verdicts.confirmed is None:
        return None

    of = {measure.measure: measure for measure in verdicts.confirmed}
    beside = {
        entry.name: {measure.measure: measure for measure in entry.measures}
        for entry in verdicts.secondary
    }
    by_defence = _by_defence(verdicts.beside) + _reversed(hypotheses.get(REVERSAL, []))
    harder = _harder(
        of["asr_left_at_rate"], of["rate_doublings"], beside, by_defence, learning_rate
    )
    impossible = _impossible(of["lost_at_cap"])
    # A seed without a cleaned model has no accuracy of it.
    cleaned = of.get("accuracy_at_cap")
    if cleaned and mean_of([cell.difference for cell in _first(cleaned)]) is None:
        cleaned = None
    deployed = _deployed(cleaned, beside.get(MATCHED, {}).get("accuracy_at_cap"))
    lines = [
        harder,
        impossible,
        _how_much(of["lost_at_cap"], beside),
        deployed,
        _range_of(len(verdicts.confirmed_seeds), draws, _elsewhere(hypotheses)),
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
    return Answer(_headline(holds), list(_numbers(of, cleaned, learning_rate)), lines)


def _numbers(
    of: Mapping[str, MeasureVerdict], cleaned: MeasureVerdict | None, learning_rate: float | None
) -> Iterator[Number]:
    """ASR left, the factor of the rates, and the accuracy when cleaned."""
    cells = _first(of["asr_left_at_rate"])
    left = [[100 * getattr(cell, name).mean for cell in cells] for name in OBJECTIVES[::-1]]
    yield Number(
        " vs ".join(f"{min(of):.0f}–{max(of):.0f}%" for of in left),
        "of attacks still succeed, on MMCL + SSL models against MMCL models, after CleanCLIP at a "
        f"learning rate of {rate(learning_rate)}: the least and the most of {len(cells)} settings.",
    )
    rates = _main(of["rate_doublings"])
    yield Number(
        f"{_bound(rates)}{factor(rates.mean)} times",
        f"{_interval(rates, factor)} at 95%: the learning rate that cleans MMCL + SSL models, over "
        f"the one that cleans MMCL models, as the mean of {len(cells)} settings.",
    )
    if cleaned:
        main = _main(cleaned)
        yield Number(
            f"{amount(main.mean, 'fraction', signed=True)} points",
            f"of accuracy {_interval(main, percent)} at 95%: the cleaned MMCL + SSL model less the "
            f"cleaned MMCL model, as the mean of {len(cells)} settings.",
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
    secondary: Secondary,
    by_defence: str,
    learning_rate: float | None,
) -> Line:
    cells = _first(left)
    of_both = [_range(getattr(cell, name).mean for cell in cells) for name in ("mmcl_ssl", "mmcl")]
    others = [(cell.mmcl.mean, of.says) for of in _compared(left, secondary) for cell in of.cells]
    most, words = max(others, default=(None, ""))
    most_left = (
        f" In other comparisons at most {percent(most)}% is left on MMCL models, in that {words}."
        if most is not None
        else ""
    )
    factors = [f"{_factor(of.difference)} {of.says}" for of in _compared(rates, secondary)]
    mean = _main(rates)
    main = f"{_factor(mean)} times the learning rate, the mean of {len(cells)} settings"
    why_bound = (
        " The first factor is a lower bound: on some seeds the lowest rate tried cleans the MMCL "
        "model already, or the highest does not clean the other."
        if mean.at_least and not mean.at_most
        else ""
    )
    return Line(
        "Are MMCL + SSL models harder to clean?",
        _word([left.verdict, rates.verdict]),
        f"After CleanCLIP at a learning rate of {rate(learning_rate)} an ASR of {of_both[0]}% is "
        f"left on them, by setting, and of {of_both[1]}% on MMCL models.{most_left} Cleaning "
        f"MMCL + SSL models takes {'; '.join([main, *factors])}.{why_bound}{by_defence}",
    )


def _by_defence(entries: Sequence[Beside]) -> str:
    """How much more is left on MMCL + SSL models, by what cleaned them at the same rate."""
    cells = {
        entry.name: measure.cells[0]
        for entry in entries
        for measure in entry.measures
        if measure.measure == "asr_left_at_rate"
    }
    if not cells:
        return ""
    [cell, *_] = cells.values()
    told = [f"by {_points(of.difference, ' points')} when {name}" for name, of in cells.items()]
    return (
        f" It depends on the defence: on {cell.difference.seeds} other seeds of "
        f"{label(cell.dataset)}, {label(cell.clean_size)}, MMCL + SSL models keep more of the ASR "
        f"than MMCL models {' and '.join(told)} (exploratory; PAR is Perturb and Recover, a later "
        "defence)."
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


def _how_much(lost: MeasureVerdict, secondary: Secondary) -> Line:
    beside = [f"{_points(of.difference)} {of.says}" for of in _compared(lost, secondary)]
    printed = " and ".join(
        f"{100 * value:.0f} ({label(dataset)})" for dataset, value in (lost.paper or {}).items()
    )
    return Line(
        "How much more accuracy does cleaning them cost?",
        f"{_points(_main(lost), ' points')}",
        "Of its accuracy, an MMCL + SSL model loses that many points more than an MMCL model. In "
        f"the paper it is {printed}, with 100K pairs. In other comparisons of ours it is "
        f"{'; '.join(beside)}.",
    )


@dataclass(frozen=True)
class Compared:
    """A measure against other models than the first comparator."""

    cells: list[CellVerdict]
    difference: Estimate
    """The mean over the settings."""
    says: str
    """Which comparison it is."""


def _compared(measure: MeasureVerdict, secondary: Secondary) -> Iterator[Compared]:
    """The comparisons beside the first: other comparators, then those of specs/claims.yaml."""
    _, *others = dict.fromkeys(cell.comparator for cell in measure.cells)
    for name in others:
        cells = [cell for cell in measure.cells if cell.comparator == name]
        groups = f"MMCL models with BatchNorm {label(name)} pairs, which MMCL + SSL models have"
        yield Compared(cells, _pooled(measure, name), f"against {groups}")
    for name, words in OTHERS.items():
        other = secondary.get(name, {}).get(measure.measure)
        if other and other.pooled:
            yield Compared(other.cells, other.pooled.difference, f"{words} ({_where(other)})")


def _where(measure: MeasureVerdict) -> str:
    """The datasets of a secondary comparison, and whether it was tested."""
    datasets = dict.fromkeys(label(cell.dataset) for cell in measure.cells)
    untested = measure.verdict.startswith(Verdict.NOT_TESTED)
    reason = [measure.verdict.replace(" (", ", ").rstrip(")")] if untested else []
    return "; ".join([" and ".join(datasets), *reason])


DEPLOYED = {"no": "MMCL + SSL", "yes": "MMCL"}
"""The cleaned model to take, by whether it is better to pre-train with MMCL alone."""


def _deployed(accuracy: MeasureVerdict | None, matched: MeasureVerdict | None) -> Line:
    question = "Is it better to pre-train with MMCL alone?"
    if accuracy is None:
        says = "On no seed are the models of both objectives cleaned in all settings."
        return Line(question, "undecided", says)

    main = _main(accuracy)
    signs = [value > 0 for cell in _first(accuracy) for value in cell.difference.by_seed.values()]
    text = (
        f"The cleaned MMCL + SSL model is the more accurate one in {sum(signs)} of {len(signs)} "
        f"pairs of equal seed and setting, by {_points(main, ' points')} of accuracy."
    )
    word = {"yes": "no", "no": "yes"}.get(higher := _word([accuracy.verdict]), higher)
    if matched and matched.pooled:
        difference = matched.pooled.difference
        low, high = difference.interval or (-1.0, 1.0)
        alike = ": neither is ahead" if low <= 0 <= high else ""
        text += (
            " Against MMCL models of twice the epochs, whose training costs about as much, the "
            f"difference is {_points(difference)}{alike} ({_where(matched)})."
        )
    if word in DEPLOYED:
        text += (
            " At equal epochs a defender who knows the trigger, and so can measure the ASR, would "
            f"deploy the cleaned {DEPLOYED[word]} model."
        )
    return Line(question, word, text)


def _elsewhere(hypotheses: Mapping[str, Sequence[JudgedHypothesis]]) -> str:
    """The differences on other tasks; nothing of a study that is not whole."""
    said = []
    for name, words in ELSEWHERE.items():
        judged = hypotheses.get(name, [])
        if not judged or any(row.verdict == Verdict.INCOMPLETE for row in judged):
            continue
        # Only an incomplete hypothesis lacks its sum.
        sums: dict[str, Estimate] = {row.measure: row.sum for row in judged if row.sum}
        left, rates, lost = (sums[measure] for measure in COMPARED)
        said.append(
            f" {words} ({left.seeds} seeds), MMCL + SSL models keep {_points(left)} points more of "
            f"the ASR, take {_factor(rates)} times the learning rate and lose {_points(lost)} "
            "points more of their accuracy."
        )
    return "".join(said)


def _range_of(seeds: int, draws: Draws | None, elsewhere: str) -> Line:
    over = f"{seeds} seeds"
    text = (
        f"A seed varies initialisation, order and views. All {seeds} seeds share one draw of "
        "poisoned pairs, patches and cleaning pairs, one target class, one trigger and one set of "
        "evaluation images."
    )
    if draws is not None and draws.complete == draws.planned:
        left, rates, lost = (
            [row for row in draws.rows if row.measure == name] for name in COMPARED
        )
        settings = " and ".join(f"{label(of.dataset)}, {label(of.clean_size)}" for of in left)
        over = f"{seeds} seeds of one draw of poisons and {draws.planned} other draws,"
        text += (
            f" There are {draws.planned} other draws, each with a seed of its own and "
            f"{draws.other_targets} with another target class. Over all of them, by setting "
            f"({settings}), MMCL + SSL models keep {_both(left, _points)} points more of the ASR "
            f"than MMCL models with equal BatchNorm groups, take {_both(rates, _factor)} times the "
            f"learning rate and lose {_both(lost, _points)} points more of their accuracy. These "
            "intervals hold the spread of draws and of seeds, those above that of seeds alone."
        )
    text += f"{elsewhere} Not shown: the paper's scale, backdoors without a patch."
    return Line("What do these numbers range over?", f"{over} at small scale", text)


def _both(rows: Sequence[DrawRow], words: Callable[[Estimate], str]) -> str:
    """The differences in all settings, in their order."""
    return " and ".join(words(row.difference) for row in rows)


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


def _main(measure: MeasureVerdict) -> Estimate:
    """The mean over the settings against the first comparator."""
    return _pooled(measure, measure.cells[0].comparator)


def _pooled(measure: MeasureVerdict, comparator: str) -> Estimate:
    """The mean over the settings against one comparator, for each seed that has all of them."""
    found = mean_of([of.difference for of in measure.cells if of.comparator == comparator])
    # The verdicts are confirmed, so that all of their seeds are measured in every setting.
    assert found is not None
    return found


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
