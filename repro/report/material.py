"""What the report tells besides results: switches and deviations, data accounting, example pairs, environment.

All of it is read from specifications and from small files beside the data; a file that is not there is left out and
the page says so. Nothing here is needed to recompute a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repro.ledger import LedgerError
from repro.profile import read_yaml
from repro.report.format import LABELS
from repro.report.numbers.evaluations import DATASETS, Evidence
from repro.spec import Switches

M = TypeVar("M", bound=BaseModel)
PNG = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]
"""A PNG file in base64."""


class Pair(BaseModel):
    """A training pair of the gallery."""

    kind: Literal["poisoned", "clean"]
    caption: str
    original_caption: str | None
    image: PNG


class EvaluationImage(BaseModel):
    """An evaluation image of the gallery and its triggered twin."""

    model_config = ConfigDict(populate_by_name=True)

    row: int
    label: str = Field(alias="class")
    image: PNG
    triggered: PNG


class Samples(BaseModel):
    """poisoned/<profile>/<dataset>-samples.json, written by repro/data/samples.py."""

    accounting: dict[str, Any]
    pairs: list[Pair]
    evaluation: list[EvaluationImage]


class FaultTest(BaseModel):
    """Outcomes of one test, its parameters counted."""

    name: str
    passed: int
    failed: int
    skipped: int


class FaultCase(BaseModel):
    """One fault and what became of it."""

    case: int
    fault: str
    must: str
    outcome: Literal["passed", "failed", "skipped", "not run"]
    tests: list[FaultTest]


class Faults(BaseModel):
    """report/faults.json, written by the fault suite."""

    commit: str | None
    dirty: bool
    date: str
    python: str
    cases: list[FaultCase]


def read_context(study: Evidence, root: Path) -> dict[str, Any]:
    """Context of the profile's report: `switches`, `accounting`, `attribution`, `gallery`, `environments`, `faults`."""
    name = study.settings.name
    samples = {
        d: s
        for d in DATASETS
        if (s := _read(Samples, root / "poisoned" / name / f"{d}-samples.json")) is not None
    }
    accounting = {"data": _read_json(root / "data" / name / "accounting.json")}
    accounting |= {
        f"poisoned pairs, {LABELS[dataset]}": sample.accounting
        for dataset, sample in samples.items()
    }
    faults = _read(Faults, root / "report" / "faults.json")
    return {
        "switches": _switches(name, study.settings.protocol, root / "specs"),
        "accounting": {
            label: content for label, content in accounting.items() if content is not None
        },
        "attribution": _read_json(root / "data" / name / "attribution.json"),
        "gallery": samples,
        "environments": _environments(study),
        "faults": faults and faults.model_dump(),
    }


def _switches(name: str, protocol: str, specs: Path) -> list[dict[str, Any]]:
    """Every choice in which text and code differ: the setting used, the text's and the code's, and whether it departs from the protocol."""
    settings = {p: read_yaml(specs / "protocols" / f"{p}.yaml") for p in ("paper", "authors")}
    overrides = read_yaml(specs / name / "protocol.yaml")["overrides"]
    used = settings[protocol] | overrides
    return [
        {
            "switch": field,
            "meaning": info.description,
            "used": used[field],
            "paper": settings["paper"][field],
            "authors": settings["authors"][field],
            "departs": field in overrides,
        }
        for field, info in Switches.model_fields.items()
    ]


def _read(model: type[M], path: Path) -> M | None:
    """A checked JSON file; None if it is not there."""
    if not path.is_file():
        return None
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise LedgerError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
        ) from None


def _environments(study: Evidence) -> list[dict[str, Any]]:
    """Distinct environments of the runs, most used first."""
    counts: dict[str, int] = {}
    for run in (*study.runs, *study.controls):
        record = run.record
        key = json.dumps(
            {**record.environment, "ranks": record.ranks, "threads": record.threads}, sort_keys=True
        )
        counts[key] = counts.get(key, 0) + 1
    return [
        {"runs": n, "environment": json.loads(key)}
        for key, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
    ]


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise LedgerError(f"{path}: content: a {type(content).__name__} (allowed: an object)")
    return content
