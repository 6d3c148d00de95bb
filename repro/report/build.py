"""The report's folder: report.json, and the pages that show it.

Every page is made from the document alone, so that `verify` can make it again and compare: equal
documents give equal bytes. `SHA256SUMS` names every file of the folder with its hash, as
`sha256sum --check` reads them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.files import file_sha256, replace_file
from repro.profile import load_profile
from repro.report.article import latex
from repro.report.document import build_document, claims_of
from repro.report.exports import EXPORTS, exported
from repro.report.figures import curves
from repro.report.figures.drawing import Drawn
from repro.report.judging.claims import Claims
from repro.report.material import Material, read_material
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import Evidence
from repro.report.pages.html import INDEX, document_pages, page_names, runs_page
from repro.report.pages.links import record_anchors
from repro.report.pages.prepared import chosen_runs
from repro.report.pages.sacred import SacredRun, read_records
from repro.report.schema.document import finite
from repro.report.studies.results import evidence_of

DOCUMENT, RUNS, PDF, SUMS = ("report.json", "runs.html", "report.pdf", "SHA256SUMS")
LINKED = (DOCUMENT, "report.tex", PDF, RUNS, *EXPORTS)
"""Files that pages link to where they lie beside them."""


def report_stage(profile_name: str) -> None:
    """Build `report/build/<profile>/`: document, pages, figures and, with TeX, the PDF."""
    root = Path()
    profile = load_profile(profile_name)
    evidence = evidence_of(profile, root, authors_points())
    out = root / "report" / "build" / profile.name

    # Sacred's records fill runs.html only; no number is read from them.
    records = read_records(root / "sacred" / profile.name)
    build(evidence, claims_of(root), read_material(evidence, root), out, records=records)
    print(f"report: {out / INDEX}", file=sys.stderr)


def build(
    evidence: Evidence,
    claims: Claims,
    material: Material,
    out: Path,
    *,
    latex_too: bool = True,
    records: Sequence[SacredRun] | None = None,
) -> dict[str, Any]:
    """Write document and pages into `out` and return the document.

    LaTeX and PDF only where asked for; runs.html only where there are `records`, be it an empty
    list of them.
    """
    numbers = build_document(evidence, claims)
    content = encoded({**numbers, "context": material.context})

    # Each page bears this hash, so that pages of another document are found out.
    digest = hashlib.sha256(content).hexdigest()
    # As whoever reads report.json gets it, so that the pages can be made from it again.
    document: dict[str, Any] = json.loads(content)

    # Drawn once for all: SVG in the pages and beside them, PDF beside report.tex.
    drawn = curves.draw_all(document)

    files = {DOCUMENT: content, **reusable_files(document, drawn)}
    if records is not None:
        files[RUNS] = records_file(document, records)
    if latex_too:
        files |= paper_files(document, digest, drawn)
    _write(out, files)

    # Pages link to the PDF, so they can only be written when TeX has had its turn.
    names = [*files, *page_names(document)]
    if latex_too and latex.compile_pdf(out, document):
        names.append(PDF)
    records_page = files.get(RUNS, b"").decode()
    _write(out, web_pages(document, digest, drawn, material.gallery, names, records_page))

    # Last, over what was written: a build that is cut short leaves old sums or none.
    _write(out, {SUMS: checksums(out, names).encode()})
    return document


def encoded(document: Mapping[str, Any]) -> bytes:
    """The content of report.json, in the document's own order, which the pages follow."""
    # NaN and infinity are no JSON; `finite` makes them null.
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def records_file(document: Mapping[str, Any], records: Sequence[SacredRun]) -> bytes:
    """runs.html, which marks the records that Table 1 of the document is of."""
    return runs_page(document["profile"], records, chosen_runs(document)).encode()


def web_pages(
    document: dict[str, Any],
    digest: str,
    drawn: Mapping[str, Drawn],
    gallery: Mapping[str, Any],
    names: Iterable[str],
    records_page: str,
) -> dict[str, bytes]:
    """index.html and what it leads to, by name, of a folder that holds files of these names;
    `records_page` is its runs.html.
    """
    # Only what is there is linked to, so a folder without TeX has no dead link.
    there = set(names)
    links = [name for name in LINKED if name in there]
    records = record_anchors(records_page)
    pages = document_pages(document, digest, drawn, gallery, links, records)
    return {name: page.encode() for name, page in pages.items()}


def reusable_files(document: dict[str, Any], drawn: Mapping[str, Drawn]) -> dict[str, bytes]:
    """What other programs, DVC among them, take from the report, by name below the folder."""
    pictures = {f"figures/{name}.svg": drawing.svg.encode() for name, drawing in drawn.items()}
    return {**exported(document), **pictures}


def paper_files(
    document: dict[str, Any], digest: str, drawn: Mapping[str, Drawn]
) -> dict[str, bytes]:
    """What the PDF is made from, by name below the folder."""
    figures = {f"figures/{name}.pdf": drawing.pdf for name, drawing in drawn.items()}
    return {
        "report.tex": latex.tex(document, digest).encode(),
        **figures,
    }


def checksums(folder: Path, names: Iterable[str]) -> str:
    """The content of SHA256SUMS for files of these names."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in sorted(names))


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = out / name

        # `replace_file` swaps the whole file in, so no reader sees half of one.
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
