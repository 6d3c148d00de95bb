"""The HTML pages, each one file that loads nothing: styles and drawings inline, no script."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from repro.names import TRIGGERS
from repro.report.figures.style import Document, Drawn, Entry
from repro.report.format import duration, label, markdown_percent, percent, rate, short
from repro.report.pages import tables

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index.html"
PAGES = {
    INDEX: "Results",
    "studies.html": "Studies",
    "mechanism.html": "Mechanism",
    "bench.html": "Bench",
    "evidence.html": "Runs, data, licences",
}
"""Titles in the order of the menu; each page has a template of its name."""


def pages(
    document: Document,
    drawn: Mapping[str, Drawn],
    gallery: Entry,
    files: Sequence[str],
) -> dict[str, bytes]:
    """Render every page of the document that has something to show.

    `files` are those beside the pages that may be linked.
    """
    empty = {
        "studies.html": not document["studies"],
        "mechanism.html": "mechanism" not in drawn,
        "bench.html": not document["bench"],
    }
    menu = {name: title for name, title in PAGES.items() if not empty.get(name)}
    shared = {
        **shared_values(document),
        "figures": drawn,
        "gallery": gallery,
        "files": sorted(files),
        "menu": menu,
    }
    environment = jinja_environment(autoescape=True)
    return {
        # The macro of figures notes in `placed` which of them the page has shown so far.
        name: environment.get_template(f"{name}.j2").render(**shared, page=name, placed=[]).encode()
        for name in menu
    }


def markdown(name: str, **values: Any) -> str:
    """Render a template of Markdown; no value opens a tag."""
    environment = jinja_environment(finalize=lambda value: str(value).replace("<", "&lt;"))
    return environment.get_template(f"{name}.md.j2").render(values).strip()


def answers(hypotheses: Entry, bench: Sequence[Any]) -> dict[str, str]:
    """Return what mechanism and bench answer, by the name of the question; only what has runs."""
    noise = TRIGGERS["badnet"]
    lines = markdown("answers", hypotheses=hypotheses, bench=bench, noise=noise).splitlines()
    return dict(line.split(": ", 1) for line in lines if line)


def shared_values(document: Document) -> dict[str, Any]:
    """Return what the templates of pages and article use beside the document."""
    values = {
        "document": document,
        "cap": document["settings"]["asr_cap"],
        "answer": document["answer"],
        "verdicts": tables.verdicts_of(document),
        "hero": tables.hero(document),
        # Its keys of datasets as they are printed elsewhere.
        "stand_in": re.sub(r"\bcc\dm\b", lambda key: label(key[0]), document["stand_in"] or ""),
    }
    sentences = markdown("outcome", **values).splitlines()
    return {
        **values,
        "sentences": sentences,
        "outcome": " ".join(sentences),
        "answers": answers(document["hypotheses"], document["bench"]),
        "table1": tables.table1(document),
        "claim_counts": tables.claim_counts(document),
        "runs": tables.runs_of(document),
        "credits": tables.credits_of(document),
    }


def jinja_environment(**options: Any) -> jinja2.Environment:
    """Return an environment over our templates; `options` say how values are escaped."""
    environment = jinja2.Environment(  # noqa: S701 (each caller says how it escapes)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        # A misspelt name is an error and not an empty place on a page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {
        "percent": percent,
        "markdown_percent": markdown_percent,
        "label": label,
        "rate": rate,
        "short": short,
        "duration": duration,
        "amount": amount,
        "level": level,
        "interval": interval,
        "factor": lambda doublings: f"{2**doublings:.1f}",
        "setting": tables.setting_words,
        "tally": tables.tally,
        "paper_sizes": tables.paper_sizes,
        "base": tables.base_verdict,
        "seeds": tables.seeds_in_words,
        "over_seeds": tables.over_seeds,
    }
    return environment


def amount(value: float, unit: str, signed: bool = False) -> str:
    """Return a value in the unit of its measure: shares in percent, all else with two decimals."""
    sign = "+" if signed and value > 0 else ""
    # Adding 0 takes the minus from a zero.
    text = percent(value) if unit == "fraction" else f"{round(value, 2) + 0:.2f}"
    return sign + text.replace("-", "−")


def level(value: float, unit: str) -> str:
    """Return the value of one model; of a measure in doublings its learning rate."""
    return f"{2**value:.2g}" if unit == "doublings" else amount(value, unit)


def interval(ends: Sequence[float], unit: str) -> str:
    """Return an interval in brackets, in the unit of its measure."""
    low, high = (amount(end, unit) for end in ends)
    return f"[{low}, {high}]"
