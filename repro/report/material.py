"""What the report shows besides results: switches, example pairs, licences, environments.

All of it is read from specifications and from small files beside the data. A file that is not there
is left out. No number is computed from any of it.
"""

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from repro.files import read_json
from repro.profile import load_profile, profile_names
from repro.report.cells import DATASETS
from repro.report.evidence import Evidence
from repro.runs.layout import DATA, POISONED
from repro.spec import Switches


def read_material(evidence: Evidence) -> tuple[dict[str, Any], dict[str, Any]]:
    """Context, which also stands in report.json, and gallery, which is shown on a page only:
    samples by dataset, key `pairs`, as repro/data/stages.py writes them.
    """
    name = evidence.profile.name
    gallery = {
        str(dataset): samples
        for dataset in DATASETS
        if (samples := read_json(POISONED / name / f"{dataset}-samples.json"))
    }
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    context = {
        "project": {"authors": project["authors"], "urls": project.get("urls", {})},
        "switches": _switches(name),
        "accounting": {"data": read_json(DATA / name / "accounting.json")},
        "attribution": read_json(DATA / name / "attribution.json"),
        "environments": _environments(evidence),
    }
    return context, gallery


def _switches(name: str) -> list[dict[str, Any]]:
    """Every choice that text and code make differently, or the text does not make; none for a
    replay of the authors' files, which has no profile.
    """
    if name not in profile_names():
        return []
    profiles = {"used": name, "paper": "paper", "authors": "authors"}
    values = {of: load_profile(profile).switches for of, profile in profiles.items()}
    return [
        {"switch": field, "meaning": info.description}
        | {of: getattr(switches, field) for of, switches in values.items()}
        for field, info in Switches.model_fields.items()
    ]


def _environments(evidence: Evidence) -> list[dict[str, Any]]:
    """The distinct environments of the runs, most used first, equally frequent ones by name."""
    # As canonical JSON, since a dict cannot be counted.
    texts = sorted(
        json.dumps({**of.environment, "ranks": of.ranks, "threads": of.threads}, sort_keys=True)
        for of in (run.record for run in evidence.runs)
    )
    counts = Counter(texts).most_common()
    return [{"runs": number, "environment": json.loads(text)} for text, number in counts]
