"""What a call says at its end: the main numbers beside the archive's, and where to read on."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from repro.data.memory import cores
from repro.files import read_json
from repro.plan.forecast import Forecast
from repro.profile import departures, graph_profile

REPORTS = Path("report/build")
TRIAL, NEXT = "smoke", "mini"
"""The profile that only tries whether all works, and the one that comes after it."""
SETTING = ("cc6m", "200k")
"""The setting whose numbers are said: most pairs, most cleaning."""
SAID: dict[str, tuple[str, Callable[[float], str]]] = {
    "asr_left_at_rate": ("ASR left at one learning rate", "{:.1%}".format),
    # The measure is its logarithm, so that the mean over seeds is a geometric one.
    "rate_doublings": ("learning rate that cleans", lambda value: f"{2**value:.1e}"),
    "accuracy_at_cap": ("accuracy when cleaned", "{:.1%}".format),
}
"""Measures that are said, with their names, and their values in words."""


def end_of_call(profile: str) -> Iterator[str]:
    """The lines at the end of a call that made, or found made, the report of a profile."""
    folder = REPORTS / profile
    document = read_json(folder / "report.json") or {}
    rows = document.get("own_run", [])
    if profile != TRIAL:
        yield from main_numbers(rows)
        yield sentence_of_check(profile, document.get("check", ""))
    yield (
        "dvc.lock and report/metrics are those of this run, whose records hold times; "
        "`git checkout dvc.lock report/metrics` takes the published ones"
    )
    yield f"page: {folder / 'index.html'}"
    if lacks_pdf(profile):
        yield f"PDF: none: {folder / 'report.tex'} did not compile"
    elif (folder / "report.pdf").exists():
        yield f"PDF: {folder / 'report.pdf'}"
    else:
        packages = "texlive-latex-recommended lmodern"
        yield f"PDF: none: no pdflatex is here (Debian: apt-get install {packages})"
    if profile == TRIAL:
        yield from end_of_trial(document.get("runs", {}))


def end_of_trial(runs: Mapping[str, Any]) -> Iterator[str]:
    """What a trial has shown, and what comes next."""
    made = sum(folder.startswith(f"results/{TRIAL}/") for folder in runs)
    hours, _, most = Forecast(graph_profile(NEXT), 1).hours_on_cores(cores())
    yield (
        f"The package works here: data, poisons, {made} training runs, their evaluation and the "
        "report went through."
    )
    yield "The numbers of this report mean nothing: its models are tiny and hardly trained."
    yield (
        f"Next: `make reproduce PROFILE={NEXT}` trains one of the ten seeds, in "
        f"{60 * hours:.0f} to {60 * most:.0f} minutes on this machine by forecast."
    )


def lacks_pdf(profile: str) -> bool:
    """Whether a report is without the PDF that LaTeX, which is here, could make."""
    source = REPORTS / profile / "report.tex"
    pdf = source.with_suffix(".pdf")
    return source.exists() and not pdf.exists() and shutil.which("pdflatex") is not None


def main_numbers(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line a measure: both models of this run, and the mean of the archived seeds."""
    values = {
        (row["measure"], row["of"]): row
        for row in rows
        if (row["dataset"], row["clean_size"]) == SETTING
    }
    for measure, (name, form) in SAID.items():
        parts = []
        for side, label in (("mmcl", "MMCL"), ("mmcl_ssl", "MMCL + SSL")):
            if row := values.get((measure, side)):
                seeds = "one archived seed"
                if len(row["archived"]) > 1:
                    seeds = f"mean of {len(row['archived'])} archived seeds"
                archived = form(mean(row["archived"]))
                parts.append(f"{label} {form(row['value'])} ({seeds}: {archived})")
        if parts:
            place = f"{SETTING[0].upper()}, {SETTING[1].upper()}"
            yield f"{place}: {name}: {', '.join(parts)}"


def sentence_of_check(profile: str, said: str) -> str:
    """What `check` says of the runs of the profile, as it `said` when the report was built."""
    if others := departures(graph_profile(profile)):
        return f"Not compared with the archive: {'; '.join(others)}."
    return said or f"{profile} has no archived runs to be compared with."
