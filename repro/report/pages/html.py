"""The HTML pages, each one file that loads nothing: styles and drawings inline, no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from repro.report.figures.style import Drawn
from repro.report.format import duration, label, percent, rate, short
from repro.report.pages import tables

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index.html"
PAIRS_SHOWN = 6
"""Example pairs of each kind on the page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and whether a document and its figures have anything to show on it."""

    name: str
    title: str
    is_shown: Callable[[Mapping[str, Any], Mapping[str, Drawn]], bool]


PAGES = (
    Page(INDEX, "Results", lambda document, drawn: True),
    Page("studies.html", "Studies", lambda document, drawn: bool(document["studies"])),
    Page("mechanism.html", "Mechanism", lambda document, drawn: "mechanism" in drawn),
    Page("bench.html", "Defences", lambda document, drawn: bool(document.get("bench"))),
    Page("evidence.html", "Runs, data, licences", lambda document, drawn: True),
)
"""In the order of the menu; each has a template of its name."""


def pages(
    document: dict[str, Any],
    drawn: Mapping[str, Drawn],
    gallery: Mapping[str, Any],
    files: Sequence[str],
) -> dict[str, bytes]:
    """Render every page of the document; `files` are those beside the pages that may be linked."""
    shown = [page for page in PAGES if page.is_shown(document, drawn)]
    environment = jinja_environment(autoescape=True)
    environment.filters |= {"amount": amount, "level": level, "interval": interval}
    shared = {
        **shared_values(document),
        "figures": drawn,
        "gallery": _examples(gallery),
        "files": sorted(files),
        "menu": shown,
        "style": Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),  # noqa: S704
    }
    rendered = {}
    for page in shown:
        template = environment.get_template(f"{page.name}.j2")
        # The macro of figures notes in `placed` which of them the page has shown so far.
        rendered[page.name] = template.render(**shared, page=page, placed=[]).encode()
    return rendered


def shared_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates of pages and article use beside the document."""
    return {
        "document": document,
        "cap": document["settings"]["asr_cap"],
        "outcome": tables.outcome(document),
        "sentences": tables.outcome_sentences(document),
        "verdicts": tables.verdicts_of(document),
        "hero": tables.hero_numbers(document),
        "table1": tables.table1(document),
        "claim_counts": tables.claim_counts(document),
        "surprises": tables.surprises(document),
        "runs": tables.run_counts(document),
        "credits": list(tables.credits_of(document)),
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
        "label": label,
        "rate": rate,
        "short": short,
        "duration": duration,
        "setting": tables.setting_words,
        "values": tables.setting_values,
        "tally": tables.tally,
        "base": tables.base_verdict,
        "seeds": tables.seeds_in_words,
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


def _examples(gallery: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a few training pairs of each kind, of the last dataset."""
    if not gallery:
        return []
    pairs = list(gallery.values())[-1]["pairs"]
    kinds = ("poisoned", "clean")
    return [p for kind in kinds for p in [p for p in pairs if p["kind"] == kind][:PAIRS_SHOWN]]
