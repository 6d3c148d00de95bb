"""Pages from the document: the only module that touches templates and the report's folder.

HTML is one file that asks for nothing from anywhere: styles and script inline, the script's hash in its content
security policy. TeX uses other delimiters and its own escaping. Equal documents give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jinja2
from markupsafe import Markup

from repro.files import replace_file
from repro.profile import load_profile
from repro.report.document import build_document, claims_of, finite, lookup
from repro.report.material import read_context
from repro.report.numbers.authors import authors_points
from repro.report.numbers.claims import Claims
from repro.report.numbers.evaluations import LABELS, LOSSES, SIZES, Evidence, read_evidence
from repro.report.pages import curves, figures, latex
from repro.report.pages.sacred import read_records
from repro.report.studies.outcomes import MEASURES

TEMPLATES = Path(__file__).parent / "pages" / "templates"
LINKS = ("report.json", "report.tex", "report.pdf", "runs.html", "metadata.yaml")
"""Files that a page links to if they lie beside it."""
CONTENTS = [
    ("answer", "Answer"),
    ("tables", "Tables"),
    ("figures", "Figures"),
    ("claims", "Claims"),
    ("selection", "Selection"),
    ("errata", "Errata"),
    ("pairs", "Pairs"),
    ("deviations", "Deviations"),
    ("data", "Data"),
    ("compute", "Compute"),
    ("faults", "Faults"),
    ("runs", "Runs"),
    ("evaluations", "Evaluations"),
]
"""Sections by id."""
STANDING = {
    "below": "surely at the cap",
    "undecided": "straddles the cap",
    "above": "surely above the cap",
}
"""Where an ASR lies by its interval."""


def report_stage(profile_name: str) -> None:
    """Build `report/build/<profile>/` (index.html, runs.html, report.json, report.tex and, with TeX, report.pdf)."""
    root = Path()
    profile = load_profile(profile_name)
    study = read_evidence(profile, root, authors_points())
    out = root / "report" / "build" / profile.name
    out.mkdir(parents=True, exist_ok=True)
    replace_file(
        out / "runs.html",
        runs_page(profile.name, read_records(root / "sacred" / profile.name)).encode(),
    )
    build(study, claims_of(root), read_context(study, root), out)
    print(f"report: {out / 'index.html'}", file=sys.stderr)


def build(
    study: Evidence, claims: Claims, context: dict[str, Any], out: Path, *, latex_too: bool = True
) -> dict[str, Any]:
    """Write the pages into `out` and return the document; LaTeX and PDF only where asked for."""
    shown = {key: value for key, value in context.items() if key != "gallery"}
    document: dict[str, Any] = finite({**build_document(study, claims), "context": shown})
    content = (
        json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        + b"\n"
    )
    digest = hashlib.sha256(content).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "report.json", content)
    with figures.style():
        drawings = curves.all_figures(document)
        layouts = {name: figures.layout(drawing) for name, drawing in drawings.items()}
        pictures = {name: figures.svg(drawing, name) for name, drawing in drawings.items()}
        if latex_too:
            (out / "figures").mkdir(exist_ok=True)
            for name, drawing in drawings.items():
                replace_file(out / "figures" / f"{name}.pdf", figures.pdf(drawing))
    if latex_too:
        replace_file(
            out / "report.tex",
            latex.tex(
                document, digest, TEMPLATES, summary(document), verdict_counts(document)
            ).encode(),
        )
        replace_file(out / "metadata.yaml", latex.metadata(document, TEMPLATES).encode())
        latex.compile_pdf(out, document)
    page = html(
        document,
        digest,
        pictures,
        layouts,
        context["gallery"],
        links=[n for n in LINKS if (out / n).is_file()],
    )
    replace_file(out / "index.html", page.encode())
    return document


def html(
    document: dict[str, Any],
    digest: str,
    pictures: dict[str, str],
    layouts: dict[str, Any],
    gallery: dict[str, Any],
    links: list[str],
) -> str:
    """The page; `pictures` are trusted SVG of our own making, everything else is escaped. `links`: files beside it."""
    environment = _environment()
    environment.globals |= {
        "number": partial(number, document),
        "interval": partial(interval, document),
    }
    studies = [("studies", "Studies")] if document["studies"] else []
    return environment.get_template("index.html.j2").render(
        document=document,
        digest=digest,
        gallery=gallery,
        contents=[*CONTENTS[:5], *studies, *CONTENTS[5:]],
        images={image.row: image for samples in gallery.values() for image in samples.evaluation},
        pictures={name: Markup(text) for name, text in pictures.items()},  # noqa: S704 (matplotlib's SVG of our own figures)
        payload=payload(document, layouts),
        losses=LOSSES,
        sizes=SIZES,
        measures=MEASURES,
        standing=STANDING,
        links=links,
        figure_texts=list(figures.captions(document).items()),
        anchors={run: f"run-{index}" for index, run in enumerate(document["runs"])},
        summary=summary(document),
        verdict_counts=verdict_counts(document),
        stand_in=document["stand_in"],
        has_authors=bool(document["authors_files"]),
        replayed=not document["runs"] and bool(document["authors_files"]),
        cap=document["settings"]["asr_cap"],
        **_inlined("page.js"),
    )


def runs_page(profile: str, records: list[dict[str, Any]]) -> str:
    """runs.html from Sacred's file records."""
    return (
        _environment()
        .get_template("runs.html.j2")
        .render(profile=profile, records=records, **_inlined("runs.js"))
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "short": short,
        "label": label,
        "rate": rate,
        "duration": duration,
    }
    return environment


def _inlined(script_name: str) -> dict[str, Any]:
    """Style and script as they stand in a page, and the hash that lets exactly this script run."""
    script, style = (
        Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in (script_name, "page.css")
    )  # noqa: S704 (our files)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": script, "script_hash": f"sha256-{allowed}", "style": style}


def payload(document: dict[str, Any], layouts: dict[str, Any]) -> dict[str, Any]:
    """What the script needs: axes, and points as short rows (panel, loss, seed, rate, epoch, accuracy, ASR, denominators, run)."""
    runs = {run: index for index, run in enumerate(document["runs"])}
    settings = document["settings"]
    result: dict[str, Any] = {
        "cap": settings["asr_cap"],
        "z": NormalDist().inv_cdf(0.5 + settings["confidence"] / 2),
        "runs": list(runs),
        "figures": {},
    }
    for name, figure in document["figures"].items():
        keys = ("dataset", "clean_size", "pretrain_objective")
        panels = {
            tuple(panel[k] for k in keys): index for index, panel in enumerate(figure["panels"])
        }
        result["figures"][name] = {
            "layout": layouts[name],
            "sizes": [p["clean_size"] for p in figure["panels"]],
            "points": [
                [
                    panels[tuple(p[k] for k in keys)],
                    p["loss"],
                    p["seed"],
                    p["learning_rate"],
                    p["epoch"],
                    round(p["accuracy"], 6),
                    round(p["asr"], 6),
                    p["images"],
                    p["attackable"],
                    runs.get(p["run"], -1),
                ]
                for p in figure["points"]
            ],
        }
    return result


def number(document: dict[str, Any], path: str, signed: bool = False) -> Markup:
    """A percentage on the page that names its place in report.json, so that `verify` can check it."""
    value = lookup(document, path)
    text = ("+" if signed and value is not None and value > 0 else "") + percent(value)
    return Markup('<data value="{}" data-path="{}">{}</data>').format(
        "" if value is None else repr(value), path, text
    )


def interval(document: dict[str, Any], path: str) -> Markup:
    """An interval on the page, both ends checkable."""
    ends = lookup(document, path)
    if ends is None:
        return Markup("")
    return Markup('<span class="interval">{} to {}</span>').format(
        number(document, f"{path}/0"), number(document, f"{path}/1")
    )


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals and without the sign."""
    return "–" if value is None else f"{100 * value:.2f}".replace("-", "−")


def short(value: float) -> str:
    """A fraction as a percentage with the digits it needs: for caps and margins."""
    return f"{100 * value:g}"


def label(key: str | None) -> str:
    """Printed name of a key."""
    return LABELS.get(key or "", key or "–")


def rate(value: float | None) -> str:
    """A learning rate."""
    return "–" if value is None else f"{value:g}"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min {rest:02d} s"
    )


def verdict_counts(document: dict[str, Any]) -> dict[str, int]:
    """Claims by verdict, all verdicts named; those on the authors' points if there are no runs of our own."""
    order = ("reproduced", "direction only", "not reproduced", "undecided", "not run")
    return {
        name: sum(
            claim["verdict" if document["runs"] else "authors_verdict"] == name
            for claim in document["claims"]
        )
        for name in order
    }


def summary(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The main result, one entry a row of Table 1: the share of accuracy lost, or the lowest ASR if none was cleaned.

    Without runs of our own, the share by the authors' points.
    """
    lines, replayed = [], not document["runs"]
    for index, row in enumerate(document["tables"]["table1"]["rows"]):
        clean, path = row["clean_accuracy"], f"tables/table1/rows/{index}/clean_accuracy"
        source = (
            "relative_drop"
            if clean["relative_drop"]
            else "authors_drop"
            if replayed and clean["authors_drop"]
            else None
        )
        lines.append(
            {
                "dataset": row["dataset"],
                "clean_size": row["clean_size"],
                "pretrain_objective": row["pretrain_objective"],
                "lost": source and f"{path}/{source}/value",
                "ci": source and f"{path}/{source}/ci",
                "lowest": f"{path}/lowest_asr"
                if clean["evaluations"] and clean["reproduced"] is None
                else None,
            }
        )
    return lines
