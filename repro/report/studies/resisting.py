"""Claims of our own over the seeds of a study that cleans every cell, for docs/findings.md:
verdict, numbers and positive control in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repro.report.format import factor, markdown_percent
from repro.report.judging.claims import RATIOS, Claims
from repro.report.judging.control import control_words
from repro.report.judging.verdicts import judged_claims
from repro.report.numbers.evidence import Evidence
from repro.report.schema.judged import CellEvidence, JudgedClaim, Metric, SeedEvidence, Verdict
from repro.report.studies.effects import whole_graph
from repro.report.studies.results import StudyResults
from repro.report.studies.words import model_name


@dataclass(frozen=True, slots=True)
class OwnCell:
    """A claim of ours in one cell; numbers in percentage points, ratios as such."""

    place: str
    verdict: Verdict
    by_seed: str
    mean: str
    """Over seeds with its interval, of a ratio the geometric one; a dash for fewer than two."""
    control: str


@dataclass(frozen=True, slots=True)
class OwnClaim:
    """A claim of ours."""

    id: str
    quote: str
    verdict: Verdict
    cells: list[OwnCell]


def own_claims(
    study: StudyResults, claims: Claims, variants: Mapping[str, Evidence]
) -> list[OwnClaim]:
    """Our claims by the runs of a study's reference; none of a study of a part of the graph."""
    whole = whole_graph(study, variants)
    if whole is None:
        return []
    judged = judged_claims(whole, claims, claims.own_claims, variants)
    return [_own_claim(claim) for claim in judged]


def _own_claim(claim: JudgedClaim) -> OwnClaim:
    metric = claim["metric"]
    return OwnClaim(
        id=claim["id"],
        quote=claim["quote"],
        verdict=claim["verdict"],
        cells=[
            OwnCell(
                place=model_name(cell),
                verdict=cell["verdict"],
                by_seed=" / ".join(_of_seed(item, metric) for item in cell["by_seed"]) or "not run",
                mean=_mean(cell, metric),
                control=control_words(cell["control"]),
            )
            for cell in claim["evidence"]
        ],
    )


def _of_seed(item: SeedEvidence, metric: Metric) -> str:
    # The note tells of a bound, or at which learning rate the models are compared.
    note = f" ({item['note']})" if item["note"] else ""
    return _number(item["value"], metric) + note


def _mean(cell: CellEvidence, metric: Metric) -> str:
    if cell["ci"] is None or cell["spread"] is None:
        return "-"

    low, high = (_number(end, metric) for end in cell["ci"])
    return f"{_number(cell['spread']['mean'], metric)} [{low}, {high}]"


def _number(value: float, metric: Metric) -> str:
    return factor(value) if metric in RATIOS else markdown_percent(value)
