"""What the report shows besides results: switches, example pairs, licences, environments.

All of it is read from specifications and from small files beside the data. A file that is not there
is left out. No number is computed from any of it.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.ledger import LedgerError
from repro.profile import SPECS, load_profile
from repro.report.numbers.cells import DATASETS
from repro.report.numbers.evidence import Evidence
from repro.runs.layout import DATA, POISONED
from repro.spec import Switches


@dataclass(frozen=True)
class Material:
    """`context` also stands in report.json; the gallery is shown on a page only."""

    context: dict[str, Any]
    gallery: dict[str, Any]
    """Samples by dataset: keys `pairs` and `evaluation`, as repro/data/samples.py writes them."""


NO_MATERIAL = Material(
    context={
        "project": {"authors": [], "repository": ""},
        "switches": [],
        "accounting": {"data": None},
        "attribution": None,
        "environments": [],
    },
    gallery={},
)


def read_material(evidence: Evidence, root: Path) -> Material:
    """Read context and gallery of the profile's report; LedgerError for a file that is no JSON."""
    name = evidence.settings.name
    samples = {
        dataset: _read_json(root / POISONED / name / f"{dataset}-samples.json")
        for dataset in DATASETS
    }
    context = {
        "project": _project(root / "pyproject.toml"),
        "switches": _switches(name, evidence.settings.protocol, root / SPECS),
        "accounting": {"data": _read_json(root / DATA / name / "accounting.json")},
        "attribution": _read_json(root / DATA / name / "attribution.json"),
        "environments": _environments(evidence),
    }
    return Material(context, {dataset: sample for dataset, sample in samples.items() if sample})


def _project(path: Path) -> dict[str, Any]:
    """Authors and repository by pyproject.toml; nobody where it is not there."""
    text = path.read_text(encoding="utf-8") if path.is_file() else "project = {}"
    project = tomllib.loads(text)["project"]
    return {
        "authors": [author["name"] for author in project.get("authors", [])],
        "repository": project.get("urls", {}).get("Repository", ""),
    }


def _switches(name: str, protocol: str, specs: Path) -> list[dict[str, Any]]:
    """Every choice that text and code make differently, or the text does not make."""
    settings = {p: load_profile(p, specs).switches.model_dump() for p in ("paper", "authors", name)}
    return [
        {
            "switch": field,
            "meaning": info.description,
            "used": settings[name][field],
            "paper": settings["paper"][field],
            "authors": settings["authors"][field],
            "departs": settings[name][field] != settings[protocol][field],
        }
        for field, info in Switches.model_fields.items()
    ]


def _environments(evidence: Evidence) -> list[dict[str, Any]]:
    """The distinct environments of the runs, most used first, equally frequent ones by name."""
    counts: Counter[str] = Counter()
    for run in (*evidence.runs, *evidence.controls):
        record = run.record
        # As canonical JSON, since a dict cannot be counted.
        environment = {**record.environment, "ranks": record.ranks, "threads": record.threads}
        counts[json.dumps(environment, sort_keys=True)] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"runs": number, "environment": json.loads(key)} for key, number in ordered]


def _read_json(path: Path) -> Any:
    """The JSON object in a file; None if there is no such file."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, allowed: an object")
    except FileNotFoundError:
        return None
    # Nesting without end overflows the parser's stack, which is no ValueError.
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: not JSON ({error})") from None
    return content
