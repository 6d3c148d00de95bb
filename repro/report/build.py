"""The report's folder: report.json, what other programs read, figures, pages and the article."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.report.document import build_document, claims_of, plain
from repro.report.exports import exported, points_of
from repro.report.figures import draw_all
from repro.report.judging.claims import Claims
from repro.report.material import Material, read_material
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import Evidence
from repro.report.pages import latex
from repro.report.pages.html import INDEX, pages
from repro.report.studies.results import evidence_of, read_study_results
from repro.runs.inputs import check_stores
from repro.runs.layout import DATA, POISONED
from repro.spec import Profile
from repro.unchanged import DIGITS, unchanged

DOCUMENT = "report.json"
CODE = (*DIGITS, "intervals.py", "plan", "profile.py", "report", "runs", "study")
"""Packages and modules of `repro` that the report and its numbers depend on."""
TEMPLATES = Path("repro/report/pages/templates")


def report_folder(profile: str) -> Path:
    """Return the folder of a profile's report."""
    return Path("report/build") / profile


def report_stage(profile_name: str) -> None:
    """Build `report/build/<profile>/`: document, figures, pages and, where TeX is, the PDF."""
    root = Path()
    files = [root / "specs", root / TEMPLATES]
    with unchanged(profile_name, Profile.model_dump, CODE, files) as profile:
        check_stores(profile, root / DATA / profile.name, root / POISONED / profile.name)
        evidence = evidence_of(profile, root, authors_points())
        out = report_folder(profile.name)
        # Beside the old report, which stays if this one fails; no file of it is left in the new.
        new = out.with_name(f".{out.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        build(evidence, claims_of(root), read_material(evidence, root), new)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    print(f"report: open {out / INDEX}", file=sys.stderr)


def build(
    evidence: Evidence,
    claims: Claims,
    material: Material,
    out: Path,
    *,
    latex_too: bool = True,
) -> dict[str, Any]:
    """Write the report into `out` and return the document.

    `latex_too` adds the article: report.tex, its figures and, where TeX is installed, report.pdf.
    """
    parts = {**build_document(evidence, claims), "context": material.context}
    # NaN and infinity are no JSON; `plain` makes them null.
    text = json.dumps(plain(parts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Everything is rendered from the document as a reader of report.json gets it.
    document: dict[str, Any] = json.loads(text)
    studies = read_study_results(evidence.settings.name, evidence.root)
    points = points_of(evidence, studies, document["resistance"]["study"])
    drawn = draw_all(document, points)

    files = {DOCUMENT: text.encode(), **exported(document, points)}
    files |= {f"figures/{name}.svg": figure.svg.encode() for name, figure in drawn.items()}
    if latex_too:
        files |= {f"figures/{name}.pdf": figure.pdf for name, figure in drawn.items()}
        files["report.tex"] = latex.tex(document, drawn).encode()
    _write(out, files)
    names = [*files, *(["report.pdf"] if latex_too and latex.compile_pdf(out, document) else [])]
    _write(out, pages(document, drawn, material.gallery, names))
    return document


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
