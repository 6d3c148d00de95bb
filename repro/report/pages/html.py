"""The HTML pages, each one file that loads nothing and runs nothing: styles and drawings inline."""

import base64
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from repro.report import reading, sentences
from repro.report.figures.style import Drawn
from repro.report.format import duration, label, percent, rate, short
from repro.report.pages.tables import (
    estimate,
    plain,
    share_estimate,
    tables,
)
from repro.report.reading import Document, Entry

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index.html"
PAGES = {
    INDEX: "Results",
    "studies.html": "Studies",
    "evidence.html": "Runs, data, licences",
}
"""Titles in the order of the menu; each page has a template of its name."""
PICTURES, PICTURED = Path("docs/pictures"), "mini"
"""An evaluation image without the patch and with it, and the profile that has it."""


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
    }
    menu = {name: title for name, title in PAGES.items() if not empty.get(name)}
    values = shared_values(document)
    shared = {
        **values,
        "figures": drawn,
        "gallery": gallery,
        "attack": attack(gallery, document["profile"], document["settings"]["target_class"]),
        "files": sorted(files),
        "menu": menu,
        "titles": menu,
    }
    shared["contents"] = contents(shared)
    environment = jinja_environment(autoescape=True)

    def rendered(name: str) -> bytes:
        # The macro of figures notes in `placed` which of them the page has shown so far.
        text = environment.get_template(f"{name}.j2").render(**shared, page=name, placed=[])
        return text.encode()

    return {name: rendered(name) for name in menu}


def contents(values: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the sections of INDEX by their places on it."""
    document, verdicts = values["document"], values["verdicts"]
    deployable = verdicts and verdicts.measure("accuracy_at_cap")
    sections = (
        ("attack", "The attack in pictures", values["attack"]),
        ("own", "Your run", document["check"]),
        ("verdicts", "How large, and how sure?", True),
        ("why", "Why do models resist?", "views" in values["tables"]),
        ("deploy", "Which model would one deploy?", deployable),
        ("limits", "What this cannot say", verdicts),
        ("tables", "The paper's tables and figures", True),
        ("claims", "The paper's claims", True),
    )
    return {place: title for place, title, there in sections if there}


def attack(gallery: Entry, profile: str, target: str) -> list[Entry]:
    """A clean and a poisoned picture with their captions, of the first dataset. Where the data are
    not here, those in PICTURES; none where these are of another profile.
    """
    samples: Entry = next(iter(gallery.values()), {"pairs": []})
    first: dict[str, Entry] = {}
    for pair in samples["pairs"]:
        first.setdefault(pair["kind"], pair)
    if "clean" in first and "poisoned" in first:
        return [first["clean"], first["poisoned"]]

    captions = {"key.png": "key", "key-patched.png": target}
    if profile != PICTURED or not all((PICTURES / name).is_file() for name in captions):
        return []
    return [
        {"image": base64.b64encode((PICTURES / name).read_bytes()).decode(), "caption": caption}
        for name, caption in captions.items()
    ]


def markdown(name: str, **values: Any) -> str:
    """Render a template of Markdown; no value opens a tag."""
    environment = jinja_environment(finalize=lambda value: str(value).replace("<", "&lt;"))
    return environment.get_template(f"{name}.md.j2").render(values).strip()


def paragraph(text: str) -> str:
    """Return the text with lines of README's width."""
    return textwrap.fill(" ".join(text.split()), 110, break_on_hyphens=False)


def shared_values(document: Document) -> dict[str, Any]:
    """Return what the templates of pages and article use beside the document."""
    said = sentences.outcome(document)
    return {
        "document": document,
        "cap": document["settings"]["asr_cap"],
        "answer": document["answer"],
        "verdicts": reading.verdicts_of(document),
        "hero": reading.hero(document),
        "controls_hold": reading.controls_hold(document),
        "scale": reading.scale_of(document),
        # Its keys of datasets as they are printed elsewhere.
        "stand_in": re.sub(r"\bcc\dm\b", lambda key: label(key[0]), document["stand_in"] or ""),
        "sentences": said,
        "outcome": " ".join(said),
        "tables": tables(document),
        "claim_counts": reading.claim_counts(document),
        "runs": reading.runs_of(document),
        "credits": reading.credits_of(document),
        "errata": reading.errata_of(document),
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
        "thousands": "{:,}".format,
        "paragraph": paragraph,
        "duration": duration,
        "estimate": estimate,
        "share_estimate": share_estimate,
        "plain": plain,
        "setting": reading.setting_words,
        "tally": reading.tally,
        "seeds": reading.seeds_in_words,
    }
    return environment
