"""The HTML pages: index.html from the document, runs.html from the Sacred records.

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

from repro.report.format import duration, label, percent, rate, short
from repro.report.judging.control import control_words
from repro.report.numbers.cells import LOSSES, SIZES
from repro.report.pages import prepared
from repro.report.pages.figures import SIGNIFICANT, captions, hardly_any
from repro.report.pages.sacred import Chart, SacredRun
from repro.report.pages.templating import TEMPLATES, jinja_environment, told_everywhere
from repro.report.schema.document import lookup
from repro.report.studies.words import not_cleaned

CONTENTS = [
    ("answer", "Answer"),
    ("tables", "Tables"),
    ("figures", "Figures"),
    ("claims", "Claims"),
    ("selection", "Selection"),
    ("studies", "Studies"),
    ("errata", "Errata"),
    ("resisting", "Resistance"),
    ("pairs", "Pairs"),
    ("deviations", "Deviations"),
    ("data", "Data"),
    ("compute", "Compute"),
    ("faults", "Faults"),
    ("runs", "Runs"),
    ("evaluations", "Evaluations"),
]
"""Sections by id; `studies` only where there are any."""
STANDING = {
    "below": "surely at the cap",
    "undecided": "straddles the cap",
    "above": "surely above the cap",
}
"""Where an ASR lies by its interval."""
PANEL = ("dataset", "clean_size", "pretrain_objective")
"""Fields that name a panel of Figures 1-3."""


def index_page(
    document: dict[str, Any],
    digest: str,
    pictures: Mapping[str, str],
    layouts: Mapping[str, Any],
    gallery: Mapping[str, Any],
    links: Sequence[str],
    records: Mapping[str, str],
) -> str:
    """index.html.

    `digest` is the SHA-256 of report.json; `pictures` are trusted SVG of our own making, everything
    else is escaped; `links` are the files beside the page that it links to; `records` has the
    fingerprint of each record on runs.html, by its anchor.
    """
    # A template names a number by its path, so a page cannot show one that report.json lacks.
    pages = _environment()
    pages.globals |= {
        "number": partial(number, document),
        "interval": partial(interval, document),
    }
    # All slots are evaluated on the same images, so one entry an image is enough.
    images = {image.row: image for samples in gallery.values() for image in samples.evaluation}
    shown = captions(document)
    # The paper's own figures have points under them, which the script can show and hide.
    main_figures = [name for name in shown if name in document["figures"]]

    return pages.get_template("index.html.j2").render(
        **told_everywhere(document),
        digest=digest,
        links=links,
        contents=[entry for entry in CONTENTS if entry[0] != "studies" or document["studies"]],
        # what stands in several sections
        confidence=document["settings"]["confidence"],
        stand_in=document["stand_in"],
        replayed=not document["runs"] and bool(document["authors_files"]),
        anchors={run: f"run-{index}" for index, run in enumerate(document["runs"])},
        sacred_anchors=prepared.sacred_anchors(document, records),
        losses=LOSSES,
        sizes=SIZES,
        hardly_any=hardly_any(document),
        significant=SIGNIFICANT,
        standing=STANDING,
        # what is made ready for one section
        by_loss=prepared.by_loss(document),
        variants=prepared.variants(document),
        gallery=gallery,
        prediction_rows=prepared.prediction_rows(document, images),
        accounts=prepared.accounts(document),
        run_tables=prepared.run_tables(document),
        fault_rows=prepared.fault_rows(document),
        # figures: SVG that we drew ourselves, so it goes in as it is
        pictures={name: Markup(text) for name, text in pictures.items()},  # noqa: S704
        main_figures=[(name, shown[name]) for name in main_figures],
        other_figures=[(name, text) for name, text in shown.items() if name not in main_figures],
        payload=payload(document, layouts),
        **_inlined("page.js"),
    )


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


def payload(document: dict[str, Any], layouts: Mapping[str, Any]) -> dict[str, Any]:
    """What the script needs: axes, and points as short rows.

    A row is (panel, loss, seed, rate, epoch, accuracy, ASR, images, attackable images, run).
    """
    # Runs by number: a name at each of thousands of points would make the page many times as long.
    settings = document["settings"]
    runs = {run: index for index, run in enumerate(document["runs"])}
    figures = {}

    for name, figure in document["figures"].items():
        panels = {_panel_of(panel): index for index, panel in enumerate(figure["panels"])}

        # Rows and not objects, for the same reason; six decimals tell one image of 50,000.
        points = [
            [
                panels[_panel_of(point)],
                point["loss"],
                point["seed"],
                point["learning_rate"],
                point["epoch"],
                round(point["accuracy"], 6),
                round(point["asr"], 6),
                point["images"],
                point["attackable"],
                # The authors' points are of no run of ours.
                runs.get(point["run"], -1),
            ]
            for point in figure["points"]
        ]
        sizes = [panel["clean_size"] for panel in figure["panels"]]
        figures[name] = {"layout": layouts[name], "sizes": sizes, "points": points}

    return {
        "cap": settings["asr_cap"],
        # With it the script computes the interval under the pointer, by Wilson as everywhere.
        "z": NormalDist().inv_cdf(0.5 + settings["confidence"] / 2),
        "runs": list(runs),
        "figures": figures,
    }


def number(document: dict[str, Any], path: str, signed: bool = False) -> Markup:
    """A percentage on the page with its place in report.json, so that `verify` can name it."""
    # The value in full goes into the tag, beside the rounded one that a reader sees.
    value = lookup(document, path)
    sign = "+" if signed and value is not None and value > 0 else ""
    shown = "" if value is None else repr(value)
    return Markup('<data value="{}" data-path="{}">{}</data>').format(
        shown, path, sign + percent(value)
    )


def interval(document: dict[str, Any], path: str) -> Markup:
    """An interval on the page, each end with its place."""
    # A number that was not measured has no interval, and no words for one.
    if lookup(document, path) is None:
        return Markup("")
    low, high = number(document, f"{path}/0"), number(document, f"{path}/1")
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


def _polyline(chart: Chart) -> str:
    """The points of a chart as SVG wants them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in chart.points)


def _panel_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[key] for key in PANEL)


def _inlined(script_name: str) -> dict[str, Any]:
    """Style and script as they stand in a page, and the hash that lets exactly this script run."""
    # The hash is of the very text that is put in, or the browser would not run it.
    script = (TEMPLATES / script_name).read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "script": Markup(script),  # noqa: S704 (our own file)
        "script_hash": f"sha256-{allowed}",
        "style": Markup(style),  # noqa: S704 (our own file)
    }
