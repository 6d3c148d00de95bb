"""`python -m repro verify`: is every number of a report what the ledger says, and do its pages show these numbers?

The document is computed anew and compared leaf by leaf; then the pages beside it are read: the hash that they carry,
and every number on the HTML page that names its place in the document.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.report.document import build_document, claims_of
from repro.report.format import percent
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import read_evidence
from repro.report.pages.findings import stale_findings
from repro.report.replay import NAME, replay_evidence
from repro.report.schema.document import finite, lookup
from repro.spec import SpecError

TOLERANCE = 1e-9
"""Relative; libraries may differ in the last digits."""
NAMING = ("variant", "dataset", "clean_size", "pretrain_objective", "loss", "id", "run")
"""Fields that name an entry of a list."""


def verify(path: Path) -> list[str]:
    """One line per difference between report.json at `path`, its pages and the ledger; none if all is well.

    Reads ledger, specifications and claims below the working directory.
    """
    content = path.read_bytes()
    try:
        document = json.loads(content)
    except ValueError as error:
        return [f"{path}: not JSON ({error})"]
    lines = [
        *_numbers(document),
        *_pages(path.parent, document, hashlib.sha256(content).hexdigest()),
    ]
    return lines + (stale_findings(document["profile"]) if document.get("studies") else [])


def differences(report: Any, ledger: Any, place: str = "") -> list[str]:
    """Leaves in which two documents differ, each with its place and both values."""
    if isinstance(report, dict) and isinstance(ledger, dict):
        keys = [*ledger, *(key for key in report if key not in ledger)]
        return [
            line
            for key in keys
            for line in differences(
                report.get(key, "nothing"),
                ledger.get(key, "nothing"),
                f"{place}.{key}" if place else str(key),
            )
        ]
    if isinstance(report, list) and isinstance(ledger, list) and len(report) == len(ledger):
        return [
            line
            for index, pair in enumerate(zip(report, ledger, strict=True))
            for line in differences(*pair, f"{place}[{_name(pair[1], index)}]")
        ]
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (report, ledger)]
    same = (
        math.isclose(report, ledger, rel_tol=TOLERANCE, abs_tol=1e-12)
        if all(numbers)
        else (type(report), report) == (type(ledger), ledger)
    )
    return (
        []
        if same
        else [f"{place}: {_short(report)} in the report, {_short(ledger)} from the ledger"]
    )


def _numbers(document: dict[str, Any]) -> list[str]:
    try:
        if document["profile"] == NAME:
            study = replay_evidence(None)
            if document["authors_files"] and not study.files:
                return [
                    "authors_files: set REPRO_AUTHORS_DIR to the folder that was replayed; its points were not checked"
                ]
        else:
            points, files = authors_points() if document["authors_files"] else ((), ())
            if document["authors_files"] and not files:
                return [
                    "authors_files: set REPRO_AUTHORS_DIR to the folder that was overlaid; nothing was checked without it"
                ]
            study = read_evidence(load_profile(document["profile"]), Path(), (points, files))
        expected = json.loads(json.dumps(finite(build_document(study, claims_of()))))
    except (LedgerError, SpecError) as error:
        return [f"ledger: {error}"]
    except KeyError as error:
        return [f"report.json: {error} is missing"]
    return differences(
        {key: value for key, value in document.items() if key != "context"}, expected
    )


def _pages(folder: Path, document: dict[str, Any], digest: str) -> list[str]:
    lines = []
    page = folder / "index.html"
    if page.is_file():
        reader = _Reader()
        reader.feed(page.read_text(encoding="utf-8"))
        if reader.digest != digest:
            lines.append(f"index.html: built from another report.json ({reader.digest})")
        for place, value, text in reader.numbers:
            try:
                expected = lookup(document, place)
            except (KeyError, IndexError, ValueError, TypeError):
                lines.append(f"index.html: {place}: shown, but not in report.json")
                continue
            if text.removeprefix("+") != percent(expected) or value != (
                "" if expected is None else repr(expected)
            ):
                lines.append(
                    f"index.html: {place}: {text} on the page, {percent(expected)} in report.json"
                )
    for name, pattern in (
        ("report.tex", rb"report\.json, SHA-256 ([0-9a-f]{64})"),
        ("report.pdf", rb"report\.json sha256 ([0-9a-f]{64})"),
    ):
        if (folder / name).is_file():
            found = re.search(pattern, (folder / name).read_bytes())
            if found is None or found[1].decode() != digest:
                lines.append(f"{name}: built from another report.json")
    return lines


class _Reader(HTMLParser):
    """Collects the page's hash and its checkable numbers: (place, value, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = ""
        self.numbers: list[tuple[str, str, str]] = []
        self._open: tuple[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        if tag == "meta" and fields.get("name") == "report-json-sha256":
            self.digest = fields.get("content") or ""
        if tag == "data" and "data-path" in fields:
            self._open = (fields["data-path"] or "", fields.get("value") or "")

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.numbers.append((*self._open, data))
            self._open = None


def _name(entry: Any, index: int) -> str:
    words = [str(entry[key]) for key in NAMING if entry.get(key)] if isinstance(entry, dict) else []
    return " ".join(words) or str(index)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
