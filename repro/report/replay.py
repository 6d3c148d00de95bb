"""`python -m repro replay DIR --out OUT`: tables and figures from the authors' published points.

Needs no GPU. The document has the shape of the main report's, with `authors_points` filled and
`reproduced` empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.report.build import build
from repro.report.document import claims_of
from repro.report.material import Material
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import Evidence, Settings

NAME = "replay"
SETTINGS = Settings(
    name=NAME,
    protocol="authors",
    stand_in="",
    cap=0.05,
    confidence=0.95,
    denominator="non_target",
    seeds=(0,),
    target_class="banana",
)
"""Cap of the paper (Table 1); denominator of the authors' code (src/evaluate.py)."""
MATERIAL = Material(
    context={
        "project": {"authors": [], "repository": ""},
        "switches": [],
        "accounting": {"data": None},
        "attribution": None,
        "environments": [],
    },
    gallery={},
)


def replay(folder: Path, out: Path) -> dict[str, Any]:
    """Build report.json and index.html in `out` from the result files in `folder`."""
    return build(replay_evidence(folder), claims_of(), MATERIAL, out, latex_too=False)


def replay_evidence(folder: Path | None) -> Evidence:
    """Evidence that consists of the authors' points alone.

    Those in `folder`, or if None in the folder that REPRO_AUTHORS_DIR names.
    """
    points, files = authors_points(folder)
    return Evidence(settings=SETTINGS, authors=points, files=files)
