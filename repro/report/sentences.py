"""Sentences of page, article and README that are made from report.json."""

from collections.abc import Callable, Iterator

from repro.report.format import bounds_in_words, factor, percent, rate
from repro.report.reading import (
    Document,
    Entry,
    Hero,
    Verdicts,
    hero,
    paper_sizes,
    seeds_in_words,
    tally,
    verdicts_of,
)


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
    if not verdicts.confirmed:
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
