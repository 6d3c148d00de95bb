"""What other programs take from a report: CSV and metrics of the very numbers, and DVC that shows
them.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.report.exports import exported
from tests.support.checkout import dvc
from tests.support.ledger import build_at, write_specs

BUILD = Path("report/build/mini")
CELL = ("dataset", "clean_size", "pretrain_objective")


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    """report.json of the synthetic study."""
    return json.loads((built / BUILD / "report.json").read_bytes())


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    return list(csv.DictReader(io.StringIO((folder / BUILD / name).read_text())))


def test_points_are_those_of_the_figures(built: Path, document: dict[str, Any]) -> None:
    expected = [
        {"figure": name, **point}
        for name, figure in document["figures"].items()
        for point in figure["points"]
    ]
    found = rows(built, "points.csv")
    assert [row["run"] for row in found] == [point["run"] for point in expected]
    for row, point in zip(found, expected, strict=True):
        assert row.keys() == point.keys()
        assert (float(row["accuracy"]), float(row["asr"])) == (point["accuracy"], point["asr"])
        assert row["figure"] == point["figure"]


def test_tables_have_value_interval_and_run_of_each_number(
    built: Path, document: dict[str, Any]
) -> None:
    tables = document["tables"]
    for row, expected in zip(rows(built, "table1.csv"), tables["table1"]["rows"], strict=True):
        assert [row[key] for key in CELL] == [expected[key] for key in CELL]
        clean, drop = expected["clean_accuracy"], expected["clean_accuracy"]["relative_drop"]
        assert float(row["clean_accuracy_reproduced"]) == clean["reproduced"]
        ends = [float(row[f"clean_accuracy_{end}"]) for end in ("low", "high")]
        assert ends == clean["ci95"]
        assert row["clean_accuracy_run"] == clean["run"]
        assert float(row["clean_asr"]) == clean["asr"]
        assert float(row["relative_drop"]) == drop["value"]
        # The paper has no MMCL model cleaned with 200K pairs.
        assert (row["clean_accuracy_paper"] == "") == (clean["paper"] is None)

    for row, expected in zip(rows(built, "table2.csv"), tables["table2"]["rows"], strict=True):
        for measure in ("accuracy", "asr"):
            assert float(row[f"{measure}_reproduced"]) == expected[measure]["reproduced"]


def test_what_was_not_measured_is_empty_and_no_metric(document: dict[str, Any]) -> None:
    row = document["tables"]["table1"]["rows"][0]
    never = {"reproduced": None, "ci95": None, "asr": None, "asr_ci95": None, "relative_drop": None}
    uncleaned = {**row, "clean_accuracy": row["clean_accuracy"] | never, "control": None}
    tables = document["tables"] | {"table1": {"rows": [uncleaned]}}
    files = exported({**document, "tables": tables})
    assert json.loads(files["metrics.json"])["table1"] == {
        "cc3m-100k-mmcl": {"original_accuracy": row["original_accuracy"]["reproduced"]}
    }
    (line,) = csv.DictReader(io.StringIO(files["table1.csv"].decode()))
    assert line["clean_accuracy_reproduced"] == line["clean_asr_low"] == line["relative_drop"] == ""


def test_metrics_tell_whether_a_row_of_table_1_passed_its_control(
    built: Path, document: dict[str, Any]
) -> None:
    table1 = json.loads((built / BUILD / "metrics.json").read_bytes())["table1"]
    for row in document["tables"]["table1"]["rows"]:
        shown, control = table1["-".join(row[key] for key in CELL)]["control"], row["control"]
        assert shown == {key: control[key] for key in ("loss", "asr", "holds")}

    # The two objectives of a dataset and size have one control: the MMCL model.
    assert table1["cc3m-100k-mmcl"]["control"] == table1["cc3m-100k-mmcl_ssl"]["control"]


def test_without_runs_tables_have_their_columns_and_claims_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    """DVC cannot plot a file without a head."""
    empty, _ = build_at(tmp_path, write_specs(tmp_path), monkeypatch)
    files, full = exported(empty), exported(document)
    assert files["points.csv"].decode().splitlines() == full["points.csv"].decode().splitlines()[:1]
    metrics = json.loads(files["metrics.json"])
    assert metrics["claims"]["not run"] == len(empty["claims"]) > 0
    assert set(map(len, metrics["table1"].values())) == {0}


def test_figures_beside_the_report_are_pictures_of_their_own(built: Path) -> None:
    names = sorted(path.stem for path in (built / BUILD / "figures").glob("*.svg"))
    assert names == sorted(path.stem for path in (built / BUILD / "figures").glob("*.pdf"))
    for name in names:
        root = ET.parse(built / BUILD / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def repository(built: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what the real dvc.yaml shows of a report, whose stage copies the report.

    In a second experiment the accuracy of one cell is another.
    """
    folder = tmp_path_factory.mktemp("shown")
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text())
    shown = {key: graph[key] for key in ("metrics", "plots")}
    stage = {
        "matrix": {"profile": ["${profile}"]},
        "cmd": "mkdir -p report/build && cp -r source report/build/${item.profile}",
        "deps": ["source"],
        "outs": ["report/build/${item.profile}"],
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"report": stage}, **shown}))
    (folder / "params.yaml").write_text("profile: mini\n")
    shutil.copytree(built / BUILD, folder / "source")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "-q")
    dvc(folder, "repro", "-q")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)

    metrics = json.loads((folder / "source/metrics.json").read_bytes())
    metrics["table1"]["cc3m-100k-mmcl"]["clean_accuracy"] = 0.5
    (folder / "source/metrics.json").write_text(json.dumps(metrics))
    dvc(folder, "repro", "-q")
    return folder


def test_dvc_shows_table_1_and_compares_it(repository: Path, document: dict[str, Any]) -> None:
    before = document["tables"]["table1"]["rows"][0]["clean_accuracy"]["reproduced"]
    name = "report/build/mini/metrics.json"
    shown = json.loads(dvc(repository, "metrics", "show", "--json"))
    numbers = shown[""]["data"][name]["data"]
    assert len(numbers["table1"]) == 6
    assert numbers["verdict"] == document["headline"]["verdict"]
    assert numbers["table1"]["cc6m-200k-mmcl_ssl"].keys() == {
        "original_accuracy",
        "clean_accuracy",
        "asr",
        "relative_drop",
        "control",
    }

    changed = json.loads(dvc(repository, "metrics", "diff", "--json"))[name]
    assert changed.keys() == {"table1.cc3m-100k-mmcl.clean_accuracy"}
    (values,) = changed.values()
    assert (values["old"], values["new"]) == (before, 0.5)

    head, *experiments = csv.reader(io.StringIO(dvc(repository, "exp", "show", "--csv")))
    column = head.index("table1.cc3m-100k-mmcl.clean_accuracy")
    assert experiments[0][column] == "0.5"


def test_dvc_shows_the_figures(repository: Path, document: dict[str, Any]) -> None:
    plots = json.loads(dvc(repository, "plots", "show", "--json"))["data"]
    pictures = [name for name, (plot, *_) in plots.items() if plot["type"] == "image"]
    names = ["answer", "figure1", "figure2", "figure3"]
    assert sorted(pictures) == [f"report/build/mini/figures/{name}.svg" for name in names]

    (scatter,) = (plot for (plot, *_) in plots.values() if plot["type"] == "vega")
    points = sum(len(figure["points"]) for figure in document["figures"].values())
    assert len(scatter["content"]["data"]["values"]) == points
    assert scatter["content"]["encoding"]["x"]["field"] == "asr"
