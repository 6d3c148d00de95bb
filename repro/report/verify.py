"""`python -m repro verify`: does a report say what the ledger says, and nothing else?

The document is computed anew and compared leaf by leaf. Then every page is made again from it and
compared byte by byte, so that nothing on a page can be of another origin.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.report.build import (
    DOCUMENT,
    PDF,
    RUNS,
    SUMS,
    checksums,
    encoded,
    paper_files,
    records_file,
    reusable_files,
    web_pages,
)
from repro.report.differences import document_differences, text_differences
from repro.report.document import build_document, claims_of
from repro.report.exports import EXPORTS
from repro.report.figures import curves
from repro.report.material import Material, read_material
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import Evidence
from repro.report.pages.findings import stale_findings
from repro.report.pages.html import INDEX, TITLES, page_names
from repro.report.pages.links import broken_links
from repro.report.pages.sacred import SacredRun, read_records
from repro.report.replay import MATERIAL, NAME, replay_evidence
from repro.report.studies.results import evidence_of
from repro.spec import SpecError

BUILT_FROM = {
    **dict.fromkeys(TITLES, rb'<meta name="report-json-sha256" content="([^"]*)">'),
    "report.tex": rb"report\.json, SHA-256 ([0-9a-f]{64})",
    PDF: rb"report\.json sha256 ([0-9a-f]{64})",
}
"""Where a page says which report.json it was built from."""


def verify(path: Path) -> list[str]:
    """One line a difference between report.json at `path`, its pages and the ledger; else none.

    Reads ledger, specifications and claims below the working directory. LedgerError if the report
    is not there.
    """
    # Without a report there is nothing to compare, which is an error and not a difference.
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise LedgerError(f"{path}: missing; build the report first") from None
    except IsADirectoryError:
        raise LedgerError(f"{path}: a folder (allowed: a report.json)") from None

    # From here on whatever is wrong with the file is a finding.
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return [f"{path}: not JSON ({error})"]
    if not isinstance(document, dict) or not isinstance(document.get("profile"), str):
        return [f"{path.name}: 'profile' is missing"]

    # Nor can anything be compared where the ledger cannot be read: that is one finding as well.
    try:
        return _found(path.parent, document, content)
    except (LedgerError, SpecError) as error:
        return [f"ledger: {error}"]


def _found(folder: Path, document: dict[str, Any], content: bytes) -> list[str]:
    """Differences of a report; LedgerError or SpecError if what it is made from cannot be used."""
    # What report.json should say, by the same way as `build` writes it.
    evidence, material = _sources(document)
    numbers = build_document(evidence, claims_of())
    expected = json.loads(encoded({**numbers, "context": material.context}))
    found = document_differences(document, expected)

    # Pages name the bytes that they were made from, be these right or wrong.
    digest = hashlib.sha256(content).hexdigest()
    names = expected_files(folder, expected)
    # Pages of a document that is wrong itself would only say the same again.
    made = {} if found else made_again(folder, names, document, digest, material)
    found += page_differences(folder, names, digest, made)
    found += dead_links(folder, names)

    # docs/findings.md is made from the same archives, and stands outside of the folder.
    if expected["studies"]:
        found += stale_findings(document["profile"])
    return found


def _sources(document: Mapping[str, Any]) -> tuple[Evidence, Material]:
    """What the report should be made from, as it lies here."""
    # The document says itself which profile it is of and whether it shows the authors' points.
    profile, overlaid = document["profile"], bool(document.get("authors_files"))

    # A replay has no profile, ledger or data: its points are all there is.
    if profile == NAME:
        evidence, material = replay_evidence(None), MATERIAL
    else:
        authors = authors_points() if overlaid else ((), ())
        evidence = evidence_of(load_profile(profile), Path(), authors)
        material = read_material(evidence, Path())

    # Their files have no licence and so are not in the repository: the reader has to supply them.
    if overlaid and not evidence.files:
        raise LedgerError(
            "authors_files: set REPRO_AUTHORS_DIR to the folder that was read for this report; "
            "nothing was checked without it"
        )
    return evidence, material


def page_differences(
    folder: Path, names: list[str], digest: str, made: Mapping[str, bytes]
) -> list[str]:
    """What in a report's folder is not as it was made.

    `names` are the files that ought to be there, `digest` is the SHA-256 of report.json, and `made`
    are the pages as that report.json gives them.
    """
    # One kind of fault a file is enough: missing, of another document, or different.
    foreign = _built_from_others(folder, digest)
    found = []
    for name in names:
        path = folder / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif name in foreign:
            found.append(f"{name}: built from another {DOCUMENT}")
        elif name in made:
            found += _differs(path, name, made[name])

    # A file that was found wrong would differ from its hash too, and only say the same again.
    told = {line.partition(":")[0] for line in found}
    whole = [name for name in names if name not in told]
    return found + _unlike_sums(folder, names, whole)


def expected_files(folder: Path, document: dict[str, Any]) -> list[str]:
    """Names of the files that ought to be in a report's folder.

    Document, page, tables and drawings always; of the other kinds those that are there, in part or
    as a whole, and those that SHA256SUMS or the page tell of.
    """
    # What the sums or the page name was there once, so that its absence is found.
    told = _text(folder / SUMS) + _text(folder / INDEX)

    def is_meant(name: str) -> bool:
        if (folder / name).is_file() or f'href="{name}"' in told:
            return True
        return re.search(rf"^[0-9a-f]{{64}}  {re.escape(name)}$", told, re.MULTILINE) is not None

    # The LaTeX files are made together: where one is, all should be.
    drawn = [f"figures/{name}" for name in curves.figure_names(document)]
    paper = ["report.tex", *(f"{name}.pdf" for name in drawn)]
    names = [DOCUMENT, *page_names(document), *EXPORTS, *(f"{name}.svg" for name in drawn)]
    names += [name for name in (RUNS, PDF) if is_meant(name)]
    if any(map(is_meant, paper)):
        names += paper
    return names


def dead_links(folder: Path, names: list[str]) -> list[str]:
    """A line for each internal link of the report's HTML pages that has no target."""
    pages = [name for name in names if name.endswith(".html") and (folder / name).is_file()]
    return list(broken_links({name: _text(folder / name) for name in pages}, names))


def made_again(
    folder: Path, names: list[str], document: dict[str, Any], digest: str, material: Material
) -> dict[str, bytes]:
    """The pages of these names, made from the document; runs.html only if the records are here."""
    made: dict[str, bytes] = {}
    # Sacred's records are not part of a release, so runs.html cannot be made again everywhere.
    records = Path("sacred") / document["profile"]
    if RUNS in names and records.is_dir():
        shown = _shown(read_records(records), _text(folder / RUNS))
        made[RUNS] = records_file(document, shown)
    elif RUNS in names:
        note = f"verify: {records} is not here; {RUNS} is compared by its hash only"
        print(note, file=sys.stderr)

    # Pages link to the records that runs.html has.
    records_page = made[RUNS].decode() if RUNS in made else _text(folder / RUNS)

    # By the functions that `build` uses, so that equal documents give equal bytes.
    drawn = curves.draw_all(document)
    made |= web_pages(document, digest, drawn, material.gallery, names, records_page)
    made |= reusable_files(document, drawn)
    if "report.tex" in names:
        made |= paper_files(document, digest, drawn)
    return made


def _shown(records: list[SacredRun], page: str) -> list[SacredRun]:
    """Those that there were when the page was made: Sacred counts upwards, and a study that ran
    since has added its own.
    """
    newest = max(map(int, re.findall(r'data-run="run-(\d+)"', page)), default=0)
    return [record for record in records if int(record.id) <= newest]


def _built_from_others(folder: Path, digest: str) -> list[str]:
    """Pages that do not say that they were built from this report.json."""
    found = []
    for name, pattern in BUILT_FROM.items():
        path = folder / name
        if not path.is_file():
            continue

        # A page that says nothing of its origin is as foreign as one that names another.
        match = re.search(pattern, path.read_bytes())
        if match is None or match[1] != digest.encode():
            found.append(name)
    return found


def _differs(path: Path, name: str, made: bytes) -> list[str]:
    """Differences between a page and what report.json makes of it."""
    there = path.read_bytes()
    if there == made:
        return []

    # A PDF has no lines to show.
    if name.startswith("figures/"):
        return [f"{name}: not the drawing of {DOCUMENT}"]

    # Bytes may differ where the decoded text does not, as by an invalid character.
    lines = text_differences(name, there.decode(errors="replace"), made.decode())
    return lines or [f"{name}: bytes that are no text"]


def _unlike_sums(folder: Path, names: list[str], whole: list[str]) -> list[str]:
    """Files that are not as SHA256SUMS says, of those that are as report.json makes them."""
    path = folder / SUMS
    if not path.is_file():
        return [f"{SUMS}: missing"]

    # Both directions: files that are not as listed, and entries of no file of the report.
    listed = _text(path).splitlines()
    wanted = checksums(folder, whole).splitlines()

    found = [
        f"{line.partition('  ')[2]}: not as {SUMS} says" for line in wanted if line not in listed
    ]
    known = [line.partition("  ")[2] for line in listed]
    found += [f"{SUMS}: {name} is no part of the report" for name in known if name not in names]
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
