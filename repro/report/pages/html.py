"""The HTML pages: index.html and what it leads to from the document, runs.html from the Sacred
records.

Each is one file that asks for nothing from anywhere: styles and script inline, the script's hash in
its content security policy. Equal documents give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import jinja2
from markupsafe import Markup

from repro.report.figures.curves import legends
from repro.report.figures.drawing import BLACK, Drawn, Key, panel_of
from repro.report.figures.scatter import (
    SIGNIFICANT,
    attack_responses,
    captions,
    hardly_any,
    height,
)
from repro.report.format import duration, factor, label, percent, rate, short, worded
from repro.report.judging.claims import RATIOS
from repro.report.judging.control import control_words
from repro.report.numbers.cells import LOSSES, SIZES
from repro.report.pages import prepared
from repro.report.pages.sacred import Chart, SacredRun
from repro.report.pages.studied import attacks, by_study, variants
from repro.report.pages.summary import brief, study_lines
from repro.report.pages.templating import TEMPLATES, jinja_environment, told_everywhere
from repro.report.schema.document import lookup
from repro.report.studies.words import matched_words, not_cleaned

INDEX, LEDGER, STUDIES, FAULTS = "index.html", "ledger.html", "studies.html", "faults.html"
ATTACK = "attack.html"
TITLES = {
    INDEX: "Report",
    STUDIES: "Studies",
    ATTACK: "When the attack does not take",
    LEDGER: "Runs and evaluations",
    FAULTS: "Faults",
}
"""The pages that are made from the document, in the order of the menu."""
CONTENTS = [
    ("answer", "Answer"),
    ("scales", "Scales and settings"),
    ("tables", "Tables"),
    ("figures", "Figures"),
    ("claims", "Claims"),
    ("studies", "Studies"),
    ("resisting", "Resistance"),
    ("selection", "Selection"),
    ("errata", "Errata"),
    ("pairs", "Pairs"),
    ("data", "Data"),
    ("compute", "Compute"),
    ("provenance", "Where the numbers come from"),
]
"""Sections of index.html by id; `studies` only where there are any."""
PLACES = {
    "sweep": "choice",
    "budgets": "choice",
    "resistance": "resistance",
    "trajectories": LEDGER,
    "responses": STUDIES,
    "attack": ATTACK,
    "matched": STUDIES,
}
"""Where figures without points stand: a section of index.html, or a page."""
SCRIPTS = {INDEX: ("page.js", "reveal.js")}
"""Scripts of a page; every other one has `reveal.js` alone."""
STANDING = {
    "below": "surely at the cap",
    "undecided": "straddles the cap",
    "above": "surely above the cap",
}
"""Where an ASR lies by its interval."""
SHAPES = {
    "o": '<circle cx="10" cy="6" r="4"/>',
    "^": '<path d="M10 1.5 14.5 10h-9z"/>',
    "s": '<path d="M6.5 2.5h7v7h-7z"/>',
    "*": '<path d="M10 .5l1.5 3.9 4.2.2-3.3 2.7 1.1 4L10 9l-3.5 2.3 1.1-4-3.3-2.7 4.2-.2z"/>',
    "x": '<path d="M6 2l8 8M14 2l-8 8" stroke-width="2"/>',
    "|": '<path d="M10 1v10" stroke-width="2"/>',
    "line": '<path d="M1 6h18" stroke-width="3"/>',
    "dashes": '<path d="M1 6h18" stroke-dasharray="4 3"/>',
    "band": '<path d="M1 1h18v10H1z" fill-opacity=".25" stroke-dasharray="2 2"/>',
    "interval": '<path d="M1 6h18"/><circle cx="10" cy="6" r="4"/>',
}
"""How the page draws the shapes of a legend."""


def page_names(document: Mapping[str, Any]) -> list[str]:
    """The pages that a document gives."""
    # A page without anything on it is left out.
    empty = {
        STUDIES: not document["studies"],
        ATTACK: not attack_responses(document),
        FAULTS: not document["context"]["faults"],
    }
    return [name for name in TITLES if not empty.get(name)]


def document_pages(
    document: dict[str, Any],
    digest: str,
    drawn: Mapping[str, Drawn],
    gallery: Mapping[str, Any],
    links: Sequence[str],
    records: Mapping[str, str],
) -> dict[str, str]:
    """Every page of the document by name.

    `digest` is the SHA-256 of report.json; the pictures that are drawn are trusted SVG of our own
    making, everything else is escaped; `links` are the files beside the pages that they link to;
    `records` has the fingerprint of each record on runs.html, by its anchor.
    """
    # A template names a number by its path, so a page cannot show one that report.json lacks.
    pages = _environment()
    pages.filters["worded"] = partial(worded, stand_in=document["stand_in"])
    pages.globals |= {
        "number": partial(number, document),
        "interval": partial(interval, document),
    }
    run_links = prepared.run_links(document, records, LEDGER)
    names = page_names(document)
    shared = {
        **told_everywhere(document),
        "digest": digest,
        "links": links,
        "menu": [(name, TITLES[name]) for name in names],
        "confidence": document["settings"]["confidence"],
        "stand_in": document["stand_in"],
        "replayed": not document["runs"] and bool(document["authors_files"]),
        "anchors": prepared.run_anchors(document),
        "run_links": run_links,
        "ratios": RATIOS,
        # Figures: SVG that we drew ourselves, so it goes in as it is.
        "panels": {name: [Markup(panel.svg) for panel in of.panels] for name, of in drawn.items()},  # noqa: S704
        "legends": legends(document),
        "shapes": {shape: Markup(text) for shape, text in SHAPES.items()},  # noqa: S704
    }
    of_page = {
        INDEX: partial(_index, document, drawn, gallery, run_links),
        STUDIES: partial(_studies, document),
        ATTACK: partial(_attack, document),
        LEDGER: partial(_ledger, document, records),
        FAULTS: partial(_faults, document),
    }
    return {
        name: pages.get_template(f"{name}.j2").render(
            **shared, **of_page[name](), page=name, **_inlined(*SCRIPTS.get(name, ("reveal.js",)))
        )
        for name in names
    }


def _index(
    document: dict[str, Any],
    drawn: Mapping[str, Drawn],
    gallery: Mapping[str, Any],
    run_links: Mapping[str, str],
) -> dict[str, Any]:
    """What index.html alone shows."""
    # All slots are evaluated on the same images, so one entry an image is enough.
    images = {image.row: image for samples in gallery.values() for image in samples.evaluation}

    # The paper's own figures have points under them, which the script can show and hide.
    shown = captions(document)
    main = [name for name in shown if name in document["figures"]]
    return {
        "contents": [entry for entry in CONTENTS if entry[0] != "studies" or document["studies"]],
        "brief": brief(document),
        "losses": LOSSES,
        "sizes": SIZES,
        "hardly_any": hardly_any(document),
        "significant": SIGNIFICANT,
        "standing": STANDING,
        "by_loss": prepared.by_loss(document),
        "study_lines": study_lines(document),
        "gallery": gallery,
        "prediction_rows": prepared.prediction_rows(document, images),
        "accounts": prepared.accounts(document),
        "main_figures": [(name, shown[name]) for name in main],
        "choice_figures": _figures_of(document, "choice"),
        "resistance_figures": _figures_of(document, "resistance"),
        "payload": payload(document, drawn, run_links),
    }


def _studies(document: dict[str, Any]) -> dict[str, Any]:
    """What studies.html alone shows."""
    return {
        "variants": variants(document),
        "responses": by_study(document, "responses"),
        "equal_starts": by_study(document, "equal_starts"),
        "other_figures": _figures_of(document, STUDIES),
    }


def _attack(document: dict[str, Any]) -> dict[str, Any]:
    """What attack.html alone shows."""
    return {
        "attacks": attacks(document),
        "taken": document["settings"]["attack_taken"],
        "other_figures": _figures_of(document, ATTACK),
    }


def _ledger(document: dict[str, Any], records: Mapping[str, str]) -> dict[str, Any]:
    """What ledger.html alone shows."""
    return {
        "run_tables": prepared.run_tables(document),
        "sacred_anchors": prepared.sacred_anchors(document, records),
        "other_figures": _figures_of(document, LEDGER),
    }


def _faults(document: dict[str, Any]) -> dict[str, Any]:
    """What faults.html alone shows."""
    return {"fault_rows": prepared.fault_rows(document)}


def _figures_of(document: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    """Figures that stand in a place, with what they show."""
    shown = captions(document)
    return [(name, shown[name]) for name, at in PLACES.items() if at == place and name in shown]


def runs_page(
    profile: str, runs: Sequence[SacredRun], chosen: Collection[str] = frozenset()
) -> str:
    """runs.html from Sacred's file records.

    `chosen` has the fingerprints of the runs whose evaluations fill Table 1.
    """
    # The cap stands in the head of a column, so it must be that of all runs.
    caps = {run.cap for run in runs if run.cap is not None}
    return (
        _environment()
        .get_template("runs.html.j2")
        .render(
            profile=profile,
            runs=runs,
            chosen=chosen,
            cap=caps.pop() if len(caps) == 1 else None,
            **_inlined("runs.js"),
        )
    )


def payload(
    document: dict[str, Any], drawn: Mapping[str, Drawn], run_links: Mapping[str, str]
) -> dict[str, Any]:
    """What the script needs: where axes lie, and points as short rows.

    A row is (panel, loss, seed, rate, epoch, accuracy, ASR, height in the figure, images,
    attackable images, run).
    """
    # Runs by number: a name at each of thousands of points would make the page many times as long.
    settings, runs = document["settings"], document["runs"]
    shown = [point["run"] for figure in document["figures"].values() for point in figure["points"]]
    numbers = {run: index for index, run in enumerate(run for run in runs if run in set(shown))}
    figures = {}

    for name, figure in document["figures"].items():
        panels = {panel_of(panel): index for index, panel in enumerate(figure["panels"])}
        figures[name] = {
            "layouts": [panel.layout for panel in drawn[name].panels],
            "sizes": [panel["clean_size"] for panel in figure["panels"]],
            "points": [
                _row(document, point, panels[panel_of(point)], numbers)
                for point in figure["points"]
                if height(document, point) is not None
            ],
        }

    return {
        "cap": settings["asr_cap"],
        "shares": bool(document["stand_in"]),
        # With it the script computes the interval under the pointer, by Wilson as everywhere.
        "z": NormalDist().inv_cdf(0.5 + settings["confidence"] / 2),
        "runs": [[run, run_links[run]] for run in numbers],
        "figures": figures,
    }


def _row(
    document: Mapping[str, Any], point: Mapping[str, Any], panel: int, runs: Mapping[str, int]
) -> list[Any]:
    """A point as the script takes it; six decimals tell one image of 50,000."""
    high = height(document, point)
    assert high is not None
    return [
        panel,
        point["loss"],
        point["seed"],
        point["learning_rate"],
        point["epoch"],
        round(point["accuracy"], 6),
        round(point["asr"], 6),
        round(high, 6),
        point["images"],
        point["attackable"],
        # The authors' points are of no run of ours.
        runs.get(point["run"], -1),
    ]


def number(
    document: dict[str, Any], path: str, signed: bool = False, ratio: bool = False
) -> Markup:
    """A percentage on the page with its place in report.json, so that `verify` can name it; of a
    `ratio` the factor.
    """
    # The value in full goes into the tag, beside the rounded one that a reader sees.
    value = lookup(document, path)
    sign = "+" if signed and value is not None and value > 0 else ""
    text = factor(value) if ratio and value is not None else percent(value)
    return Markup('<data value="{}" data-path="{}">{}</data>').format(
        "" if value is None else repr(value), path, sign + text
    )


def interval(document: dict[str, Any], path: str, ratio: bool = False) -> Markup:
    """An interval on the page, each end with its place."""
    # A number that was not measured has no interval, and no words for one.
    if lookup(document, path) is None:
        return Markup("")
    low, high = (number(document, f"{path}/{end}", ratio=ratio) for end in (0, 1))
    return Markup('<span class="interval">{} to {}</span>').format(low, high)


def _environment() -> jinja2.Environment:
    pages = jinja_environment(autoescape=True)
    pages.filters |= {
        "percent": percent,
        "short": short,
        "label": label,
        "rate": rate,
        "duration": duration,
        "control": control_words,
        "decision": prepared.decision,
        "matched": matched_words,
        "mean_of": prepared.mean_of,
        "ink": _ink,
        "not_cleaned": not_cleaned,
        "first_few": prepared.first_few,
        "run_text": prepared.run_text,
        "seed_note": prepared.seed_note,
        "erratum_result": prepared.erratum_result,
        "exact": prepared.exact,
        "thousands": prepared.thousands,
        "gigabytes": prepared.gigabytes,
        "step_of_cap": prepared.step_of_cap,
        "points": _polyline,
    }
    return pages


def _ink(key: Key) -> str:
    """The colour of a legend's entry; black is the page's text colour, as in the drawings."""
    return "currentColor" if key.colour == BLACK else key.colour


def _polyline(chart: Chart) -> str:
    """The points of a chart as SVG wants them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in chart.points)


def _inlined(*scripts: str) -> dict[str, Any]:
    """Style and scripts as they stand in a page, and the hash that lets exactly these run."""
    # The hash is of the very text that is put in, or the browser would not run it.
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "script": Markup(script),  # noqa: S704 (our own files)
        "script_hash": f"sha256-{allowed}",
        "style": Markup(style),  # noqa: S704 (our own file)
    }
