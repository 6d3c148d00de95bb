"""What the report tells besides results: switches and deviations, data accounting, example pairs,
environment.

All of it is read from specifications and from small files beside the data; a file that is not there
is left out and the page says so. Nothing here is needed to recompute a number.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from repro.files import unsealed
from repro.ledger import LedgerError
from repro.profile import SPECS, read_yaml
from repro.report.format import label
from repro.report.numbers.cells import DATASETS
from repro.report.numbers.evidence import Evidence
from repro.report.schema.provenance import (
    EnvironmentRow,
    Faults,
    ProjectEntry,
    ReportContext,
    SwitchRow,
)
from repro.runs.layout import DATA, POISONED, REPORT
from repro.spec import Switches

T = TypeVar("T")
PROJECT = "pyproject.toml"
"""The file that names the authors, for the report as for a release."""
PNG = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]
"""A PNG file in base64."""


class Author(BaseModel):
    """An author of the project."""

    name: str


class Project(BaseModel):
    """What the report tells of pyproject.toml."""

    authors: list[Author] = []
    urls: dict[str, str] = {}


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


class NearCopy(BaseModel):
    """A drawing left out of the evaluation, and the training drawing that it resembles."""

    model_config = ConfigDict(populate_by_name=True)

    label: str = Field(alias="class")
    image: PNG
    training_caption: str
    training_image: PNG
    correlation: float


class Samples(BaseModel):
    """poisoned/<profile>/<dataset>-samples.json, written by repro/data/samples.py."""

    accounting: dict[str, Any]
    pairs: list[Pair]
    evaluation: list[EvaluationImage]
    near_copies: list[NearCopy] = []
    """Empty where the data source does not look for them."""


@dataclass(frozen=True)
class Material:
    """What a report shows besides results: `context` also stands in report.json, the gallery only
    on the page.
    """

    context: ReportContext
    gallery: dict[str, Samples]
    """By dataset slot."""


def read_material(evidence: Evidence, root: Path) -> Material:
    """Context and gallery of the profile's report; LedgerError for a file that cannot be used."""
    # A checkout without data has no gallery, but the same numbers.
    name = evidence.settings.name
    gallery: dict[str, Samples] = {}
    for dataset in DATASETS:
        samples = _read_sealed(Samples, root / POISONED / name / f"{dataset}-samples.json")
        if samples is not None:
            gallery[dataset] = samples

    # What became of the data: of the whole source, then of the poisoned pairs of each slot.
    accounting: dict[str, dict[str, Any]] = {}
    of_data = _read_json(root / DATA / name / "accounting.json")
    if of_data is not None:
        accounting["data"] = of_data
    for slot, shown in gallery.items():
        accounting[f"poisoned pairs, {label(slot)}"] = shown.accounting

    context: ReportContext = {
        "project": _project(root / PROJECT),
        "switches": _switches(name, evidence.settings.protocol, root / SPECS),
        "accounting": accounting,
        "attribution": _read_json(root / DATA / name / "attribution.json"),
        "environments": _environments(evidence),
        "faults": _read(Faults, root / REPORT / "faults.json"),
    }
    return Material(context, gallery)


def _project(path: Path) -> ProjectEntry:
    """Authors and repository by pyproject.toml; nobody where it is not there."""
    if not path.is_file():
        return {"authors": [], "repository": ""}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: not TOML ({error})") from None
    project = _checked(Project, content.get("project"), path)
    return {
        "authors": [author.name for author in project.authors],
        "repository": project.urls.get("Repository", ""),
    }


def _switches(name: str, protocol: str, specs: Path) -> list[SwitchRow]:
    """Every choice in which text and code differ: the setting used, the text's and the code's."""
    settings = {p: read_yaml(specs / "protocols" / f"{p}.yaml") for p in ("paper", "authors")}

    # A profile follows one protocol, but for the overrides that it lists.
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


def _environments(evidence: Evidence) -> list[EnvironmentRow]:
    """Distinct environments of the runs, most used first."""
    counts: Counter[str] = Counter()
    for run in (*evidence.runs, *evidence.controls):
        record = run.record

        # As canonical JSON, since a dict cannot be counted.
        environment = {**record.environment, "ranks": record.ranks, "threads": record.threads}
        counts[json.dumps(environment, sort_keys=True)] += 1

    # Equally frequent ones by their text, so that the order is the same in every build.
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"runs": number, "environment": json.loads(key)} for key, number in ordered]


def _read(shape: type[T], path: Path) -> T | None:
    """A checked JSON file; None if it is not there."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(shape).validate_json(path.read_bytes())
    except ValidationError as error:
        raise _refused(path, error) from None


def _checked(shape: type[T], content: object, path: Path) -> T:
    """What was read from a file, checked."""
    try:
        return TypeAdapter(shape).validate_python(content)
    except ValidationError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: ValidationError) -> LedgerError:
    """What is wrong with a file; the first problem is enough."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "content"
    return LedgerError(f"{path}: {field}: {first['msg']}")


def _read_sealed(shape: type[T], path: Path) -> T | None:
    """A checked JSON file that bears its own hash; None if it is not there."""
    try:
        unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        remedy = "delete it, and `dvc repro` makes it again"
        raise LedgerError(f"{path}: changed after it was written ({error}); {remedy}") from None
    return _read(shape, path)


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if it is not there."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    # Nesting without end overflows the parser's stack, which is no ValueError.
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise LedgerError(f"{path}: content: a {type(content).__name__} (allowed: an object)")
    return content
