"""report.json has the shape that its published schema tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.ledger import LedgerError
from repro.report.document import build_document, claims_of
from repro.report.numbers.evidence import read_evidence
from repro.report.schema.document import SCHEMA_FILE, finite, json_schema, read_report
from tests.support.ledger import write_specs

BUILT = Path("report/build/mini/report.json")


def test_the_published_schema_is_that_of_the_types() -> None:
    """`python -m repro.report.schema.document` prints it."""
    assert json.loads(SCHEMA_FILE.read_bytes()) == json_schema()


def test_every_type_of_the_schema_refuses_fields_that_it_does_not_name() -> None:
    schema = json_schema()
    shapes = [schema, *schema["$defs"].values()]
    assert len(shapes) > 60
    assert all(shape["additionalProperties"] is False for shape in shapes)


def test_a_built_report_is_valid(built: Path) -> None:
    document = read_report(built / BUILT)
    assert len(document["tables"]["table1"]["rows"]) == 6


def test_the_report_of_an_empty_ledger_is_valid(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = write_specs(tmp_path)
    monkeypatch.chdir(tmp_path)
    numbers = build_document(read_evidence(profile, Path()), claims_of())
    context = json.loads((built / BUILT).read_bytes())["context"]
    Path("report.json").write_text(json.dumps(finite({**numbers, "context": context})))
    assert read_report(Path("report.json"))["headline"]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("headline", {"verdict": "proved"}, "headline.verdict: Input should be 'reproduced'"),
        ("profile", 3, "profile: Input should be a valid string"),
        ("opinion", "good", "opinion: Extra inputs are not permitted"),
    ],
)
def test_a_report_of_another_shape_is_refused_by_field(
    tmp_path: Path, built: Path, place: str, value: object, message: str
) -> None:
    document = json.loads((built / BUILT).read_bytes())
    known = document.get(place)
    document[place] = known | value if isinstance(known, dict) else value
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LedgerError, match=f"report.json: {message}"):
        read_report(path)


def test_a_report_that_is_not_there_is_to_be_built_first(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"report\.json: missing; build the report first"):
        read_report(tmp_path / "report.json")
