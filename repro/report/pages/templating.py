"""Jinja as all pages use it: our templates, and an error for a name that a template lacks; and what
page and PDF both tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from repro.report.pages import prepared, summary
from repro.report.pages.verdicts import (
    METRICS,
    control_lines,
    discussion,
    rate_lines,
    seed_verdicts,
    settling,
    verdict_counts,
)
from repro.report.scales.printed import ladder_table, setting_lines
from repro.report.studies.outcomes import MEASURES

TEMPLATES = Path(__file__).parent / "templates"


def jinja_environment(**options: Any) -> jinja2.Environment:
    """An environment over our templates; `options` say above all how values are escaped."""
    return jinja2.Environment(  # noqa: S701 (each caller says how it escapes)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        # A misspelt name is an error and not an empty place on a page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def told_everywhere(document: dict[str, Any]) -> dict[str, Any]:
    """What page and PDF both tell, in the same words; names of the templates."""
    found = discussion(document)
    return {
        "document": document,
        "title": summary.report_title(document),
        "origin": summary.origin(document),
        "cap": document["settings"]["asr_cap"],
        "has_authors": bool(document["authors_files"]),
        "answer_lines": prepared.answer_lines(document),
        "control_lines": control_lines(document),
        "rate_lines": rate_lines(document),
        "seed_verdicts": seed_verdicts(document),
        "found": found,
        "settling": settling(document, found),
        "alone": prepared.mmcl_alone(document),
        "metrics": METRICS,
        "setting_lines": setting_lines(document),
        "ladder": ladder_table(document),
        "verdict_counts": verdict_counts(document),
        "departures": prepared.departures(document),
        "cost": summary.times_taken(document),
        "measures": MEASURES,
    }
