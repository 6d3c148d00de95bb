"""Sentences of page, article and README that are made from report.json."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from repro.names import TRIGGERS
from repro.report.cells import OBJECTIVES
from repro.report.format import amount, bounds_in_words, factor, interval, label, percent, rate
from repro.report.pages.table import listed
from repro.report.reading import (
    Document,
    Entry,
    Hero,
    Verdicts,
    hero,
    paper_sizes,
    seeds_in_words,
    setting_words,
    tally,
    verdicts_of,
)

VERBS = {
    "supported": "support",
    "refuted": "refute",
    "undecided": "leave open",
    "incomplete": "do not decide yet",
}
"""What seeds do to the hypotheses of a verdict."""
EXPLAINING = ("mechanism", "whose_view", "par", "confirm", "reversal")
"""Studies that ask why models resist and why a defence cleans."""
DECIDED = ("supported", "supported, negligible", "incomplete")
"""Verdicts of the first two hypotheses of the bench with which it goes on."""


def outcome(document: Document) -> list[str]:
    """The outcome in a few sentences, the plainest first."""
    verdicts, cap = verdicts_of(document), document["settings"]["asr_cap"]
    nothing = "so nothing can be said of the paper's claims."
    if verdicts is None:
        return [f"No seed was run at this profile, {nothing}"]
    if verdicts.start_asr <= cap:
        before = percent(verdicts.start_asr)
        return [
            f"The models of these runs have no backdoor (ASR {before}% before cleaning), {nothing}"
        ]
    return list(_outcome(document, verdicts, hero(document)))


def _outcome(document: Document, verdicts: Verdicts, at_rate: Hero | None) -> Iterator[str]:
    if verdicts.of_authors:
        yield "These are the authors' published points; no seed was run here."
    if at_rate:
        yield (
            f"After the same CleanCLIP finetuning ({at_rate.setting}, learning rate "
            f"{rate(at_rate.rate)}), the MMCL + SSL model keeps an ASR of "
            f"{percent(at_rate.asr['mmcl_ssl'])}% and the MMCL model "
            f"{percent(at_rate.asr['mmcl'])}% ({seeds_in_words(at_rate.seeds)})."
        )
    if rates := verdicts.measure("rate_doublings"):
        yield (
            f"The learning rate that cleans the MMCL + SSL model is {_pooled(rates)} "
            f"({tally(rates)})."
        )
    if lost := verdicts.measure("lost_at_cap"):
        paper = f"; in the paper {paper_sizes(lost)}" if lost["paper"] else ""
        yield (
            "By the paper's own measure, the share of its accuracy that a model loses when it is "
            f"cleaned, the MMCL + SSL model loses {_pooled(lost)} ({tally(lost)}{paper})."
        )
    if verdicts.confirmed:
        yield (
            "The rules of these verdicts were fixed before any of the "
            f"{len(verdicts.seeds)} seeds was run."
        )
    yield from _larger(document, verdicts)
    if not verdicts.confirmed and not verdicts.of_authors:
        every = document["verdicts"]
        planned, done = (len(every[name]) for name in ("planned_seeds", "confirmed_seeds"))
        later = f" A confirmation on {planned} other seeds has {done} of them so far."
        yield (
            "These results are exploratory, because the rules were fixed after these seeds had "
            f"been seen.{later if planned else ''}"
        )


def _larger(document: Document, verdicts: Verdicts) -> Iterator[str]:
    for lost in document["larger"]["measures"]:
        # Without it no seed has all settings.
        if lost["measure"] == "lost_at_cap" and (found := lost["pooled"]):
            weak = "weak backdoor" in found["marks"]
            start = percent(min(found["start_asr"].values()))
            exploratory = "exploratory, " if verdicts.confirmed else ""
            yield (
                f"At the larger scale, midi, it loses {_pooled(lost)} ({lost['verdict']}, "
                f"{exploratory}{found['difference']['seeds']} seeds"
                f"{f', ASR before cleaning only {start}%' if weak else ''})."
            )


def _pooled(measure: Entry) -> str:
    """The mean over the settings, in words."""
    found = (measure["pooled"] or measure["cells"][0])["difference"]
    doublings = measure["unit"] == "doublings"
    form: Callable[[float], str] = factor if doublings else percent
    more = "times as high" if doublings else "points more"
    ends = f" [{', '.join(map(form, found['interval']))}]" if found["interval"] else ""
    return f"{bounds_in_words(found)}{form(found['mean'])} {more}{ends}"


def answers(hypotheses: Entry, bench: Sequence[Entry]) -> dict[str, str]:
    """What mechanism and bench answer, by the name of the question; only what has runs."""
    gate = hypotheses.get("bench", [])
    took = [of for of in bench if of["took"] and of["pretrain_objective"] in OBJECTIVES]
    found = {
        **{name: _of_seeds(hypotheses.get(name, [])) for name in EXPLAINING},
        "gate": _gate(gate),
        "defence": _defence(took, gate),
        "trigger": _trigger(took, gate),
        "blind": _blind(took),
    }
    return {name: text for name, text in found.items() if text}


def _of_seeds(rows: Iterable[Entry]) -> str:
    """What the seeds of a study do to its hypotheses."""
    known = [row for row in rows if row["sum"]]
    judged = sorted(known, key=lambda row: str(row["family"]), reverse=True)
    said: list[str] = []
    for verdict, verb in VERBS.items():
        of = [row for row in judged if row["verdict"].split(",")[0] == verdict]
        parts = [
            f"that {row['says']}"
            + ("" if verdict == "refuted" else f" ({points(row['sum'], unit)})")
            for row, unit in zip(of, ["points of ASR left", *["points"] * len(of)], strict=False)
        ]
        if parts:
            subject = "They" if said else f"{judged[0]['sum']['seeds']} seeds"
            said.append(f"{subject} {verb} {listed(parts)}.")
    return " ".join(said)


def _gate(gate: Sequence[Entry]) -> str:
    if not gate or not gate[0]["sum"] or any(row["verdict"] in DECIDED for row in gate[:2]):
        return ""
    return (
        "By the rule that was committed with its hypotheses, the bench ends at its gate, because "
        f"neither of the first two is supported. {gate[0]['sum']['seeds']} seeds at this scale do "
        "not show what it was to compare, so no further attack was run."
    )


def _defence(cells: Sequence[Entry], gate: Sequence[Entry]) -> str:
    patch = [of for of in cells if of["attack"] == TRIGGERS["badnet"]]
    more = []
    for defence in dict.fromkeys(of["defence"] for of in patch):
        left = [of["left"]["mean"] for of in patch if of["defence"] == defence]
        if len(left) == len(OBJECTIVES):
            more.append(f"{amount(left[1] - left[0], 'fraction', signed=True)} points ({defence})")
    if not more:
        return ""
    return (
        f"{''.join(map(hypothesis, gate[2:3]))}The ASR left of the noise patch on MMCL + SSL "
        f"models less that on MMCL models is, by defence, {'; '.join(more)}."
    )


def _trigger(cells: Sequence[Entry], gate: Sequence[Entry]) -> str:
    clip = [of for of in cells if of["defence"] == "CleanCLIP"]
    if len({of["attack"] for of in clip}) < 2:
        return ""
    left = (
        f"{percent(of['left']['mean'])}% ({of['attack']}, {label(of['pretrain_objective'])})"
        for of in clip
    )
    return f"{''.join(map(hypothesis, gate[1:2]))}CleanCLIP leaves an ASR of {listed(left)}."


def _blind(cells: Sequence[Entry]) -> str:
    if not cells:
        return ""
    worst = max(cells, key=lambda of: float(of["price"]["mean"]))
    left = [of["blind"]["0.05"]["mean"] for of in cells]
    return (
        "A defender who does not know the trigger and gives up 5% of the accuracy is left with an "
        f"ASR of {percent(min(left))}% to {percent(max(left))}%, by attack, model and defence. Not "
        f"knowing the trigger costs {percent(worst['price']['mean'])} points of ASR where it costs "
        f"most ({worst['defence']}; {worst['attack']}; {label(worst['pretrain_objective'])})."
    )


def hypothesis(row: Entry) -> str:
    """What the seeds say of one hypothesis, or nothing."""
    of = row["sum"]
    if not of:
        return ""
    return f"Over {of['seeds']} seeds, whether {row['says']} is {row['verdict']} ({points(of)}). "


def points(found: Entry, unit: str = "points") -> str:
    """A difference of shares with its interval."""
    ends = f" {interval(found['interval'], 'fraction')}" if found["interval"] else ""
    return f"{amount(found['mean'], 'fraction', signed=True)} {unit}{ends}"


def own_run(document: Document) -> str:
    """What is said of the report's own run below the first figure; "" where there is none."""
    values = document["own_run"]
    if not values:
        return ""
    outside = [row for row in values if not row["inside"]]
    verdicts = verdicts_of(document)
    named = [_outside(row, verdicts) for row in outside]
    return (
        f"This run against the archive: of {len(values)} values by the measures of the verdicts, "
        f"at the learning rates that both have, {len(outside)} lie outside the 95% prediction "
        f"interval of {len(values[0]['archived'])} archived seeds"
        f"{': ' if named else ''}{'; '.join(named)}."
    )


def _outside(row: Mapping[str, Any], verdicts: Verdicts | None) -> str:
    measure = verdicts and verdicts.measure(row["measure"])
    if not measure:
        return str(row["measure"])
    unit = measure["unit"]
    return (
        f"{measure['title']}, {setting_words(row)}, {label(row['of'])}: "
        f"{amount(row['value'], unit, signed=True)} {interval(row['interval'], unit)}"
    )
