"""report.json as a whole: its type, its JSON Schema, and how it is read.

`python -m repro.report.schema.document` prints `report.schema.json`, which lies beside this module.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from repro.ledger import LedgerError
from repro.report.schema.base import closed
from repro.report.schema.judged import ErratumResult, Headline, JudgedClaim, PaperEntry
from repro.report.schema.provenance import (
    ArchivedCompute,
    AuthorsFile,
    ComputeRow,
    DocumentSettings,
    DocumentSources,
    ForecastTable,
    MissingRun,
    ReportContext,
    RunProvenance,
)
from repro.report.schema.resistance import Resistance
from repro.report.schema.results import (
    ControlRow,
    ScatterFigure,
    ShownPredictions,
    Statistics,
    Tables,
    Trajectory,
)
from repro.report.schema.scales import LadderRow, SettingRow
from repro.report.schema.studies import EqualStarts, ResponseEntry, StudyEntry

SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
"""The published JSON Schema."""


@closed
class ReportNumbers(TypedDict):
    """All of report.json that is computed from the ledger and the claims file."""

    schema: Literal[1]
    profile: str
    protocol: str
    stand_in: str
    """What the dataset slots hold instead of the paper's data; empty if they hold the real data."""
    commit: str | None
    """Of most runs."""
    commits: list[str]
    settings: DocumentSettings
    settings_table: list[SettingRow]
    """The paper's settings and the profile's; empty for a replay, which has no profile."""
    ladder: list[LadderRow]
    """One row a scale, the smallest first; empty for a replay."""
    paper: PaperEntry
    tables: Tables
    figures: dict[str, ScatterFigure]
    """`figure1` to `figure3`."""
    claims: list[JudgedClaim]
    """The paper's."""
    own_claims: list[JudgedClaim]
    """Ours, over the seeds of `resistance`."""
    resistance: Resistance
    headline: Headline
    errata: list[ErratumResult]
    statistics: Statistics
    trajectories: list[Trajectory]
    controls: list[ControlRow]
    predictions: ShownPredictions
    studies: list[StudyEntry]
    responses: list[ResponseEntry]
    """What studies measured over a number that they vary."""
    equal_starts: list[EqualStarts]
    runs: dict[str, RunProvenance]
    """By folder."""
    missing: list[MissingRun]
    notices: list[str]
    """What a reader should know about the ledger."""
    authors_files: list[AuthorsFile]
    compute: list[ComputeRow]
    """Of the profile's own runs."""
    archived_compute: ArchivedCompute
    forecast: ForecastTable
    sources: DocumentSources


@closed
class ReportDocument(ReportNumbers):
    """report.json."""

    context: ReportContext


def read_report(path: Path) -> ReportDocument:
    """The checked report.json at `path`; LedgerError names a field that is not as it should be."""
    try:
        return TypeAdapter(ReportDocument).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise LedgerError(f"{path}: missing; build the report first") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise LedgerError(f"{path}: {place}: {first['msg']}") from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of report.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(ReportDocument).json_schema(),
    }


def finite(content: Any) -> Any:
    """JSON content with lists for tuples and None for numbers that are not finite."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def lookup(document: Any, path: str) -> Any:
    """The value at a path such as `tables/table1/rows/0/clean_accuracy/reproduced`."""
    node = document
    for part in path.split("/"):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return node


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1, sort_keys=True))
