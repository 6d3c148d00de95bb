"""CSV files and metrics: one row an evaluation, and the numbers of report.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from repro.report.exports import COLUMNS


@pytest.fixture(scope="module")
def report(whole: Path) -> Path:
    return whole / "report/build/mini"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_has_one_row_whatever_figures_it_stands_in(report: Path) -> None:
    rows = rows_of(report / "points.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len({(row["run"], row["step"]) for row in rows}) == len(rows)
    document = json.loads((report / "report.json").read_bytes())
    for name, figure in document["figures"].items():
        drawn = [row for row in rows if row[name] == "True" and row["step"] != "0"]
        assert len(drawn) == len(figure["points"])
    both = [row for row in rows if (row["figure2"], row["figure3"]) == ("True", "True")]
    assert both


def test_the_archives_are_a_flat_table_of_all_seeds(report: Path) -> None:
    rows = rows_of(report / "archive.csv")
    assert {row["study"] for row in rows} == {"seeds", "control"}
    assert {row["seed"] for row in rows} == {"10", "11", "12"}
    for row in rows:
        assert float(row["accuracy"]) == int(row["correct"]) / int(row["images"])
        assert float(row["asr"]) == int(row["attacked"]) / int(row["attackable"])
    # Only the reference of the study over seeds is drawn beside one's own runs.
    assert {row["study"] for row in rows if row["figure1"] == "True"} == {"seeds"}


def test_the_interval_of_a_value_has_its_columns_beside_it(report: Path) -> None:
    table = json.loads((report / "report.json").read_bytes())["tables"]["table1"]["rows"]
    first = rows_of(report / "table1.csv")[0]
    clean = table[0]["clean_accuracy"]
    assert float(first["clean_accuracy_reproduced"]) == clean["reproduced"]
    ends = [float(first[f"clean_accuracy_ci95_{end}"]) for end in ("low", "high")]
    assert ends == clean["ci95"]
