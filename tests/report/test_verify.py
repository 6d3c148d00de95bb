"""`verify` recomputes the report from the ledger and names what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repro.report.verify import differences, verify
from tests.support.ledger import reseal

REPORT = Path("report/build/mini/report.json")


@pytest.fixture
def study(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a built study as working folder."""
    root = tmp_path / "study"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


def test_an_untouched_report_agrees_with_its_ledger(study: Path):
    assert verify(REPORT) == []


@pytest.mark.faults(21)
def test_one_changed_count_of_the_ledger_names_the_cell(study: Path):
    run = json.loads(REPORT.read_bytes())["tables"]["table2"]["rows"][0]["accuracy"]["run"]
    folder = study / run
    bits = dict(np.load(folder / "bits.npz"))
    right = np.unpackbits(bits["correct"][-1])
    right[np.flatnonzero(right)[0]] = 0
    bits["correct"][-1] = np.packbits(right)
    np.savez_compressed(folder / "bits.npz", **bits)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    lines[-1] = json.dumps(row | {"num_correct": row["num_correct"] - 1})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    reseal(folder)
    found = verify(REPORT)
    assert any(
        line.startswith(
            "tables.table2.rows[cc3m mmcl].accuracy.reproduced: 0.4 in the report, 0.3975 "
        )
        for line in found
    )


@pytest.mark.faults(21)
@pytest.mark.parametrize("name", ["rows.jsonl", "bits.npz", "run.json"])
def test_any_changed_byte_of_a_run_is_found(study: Path, name: str):
    path = study / "results/mini/pretrain/cc3m-mmcl/seed0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = verify(REPORT)
    assert found
    assert any("cc3m-mmcl/seed0" in line for line in found)


@pytest.mark.faults(21)
def test_a_number_edited_on_the_page_is_named(study: Path):
    page = REPORT.with_name("index.html")
    text = page.read_text()
    place = 'data-path="tables/table2/rows/0/accuracy/reproduced">40.00<'
    assert text.count(place) == 1
    page.write_text(text.replace(place, place.replace("40.00", "41.00")))
    assert verify(REPORT) == [
        "index.html: tables/table2/rows/0/accuracy/reproduced: 41.00 on the page, 40.00 in report.json"
    ]


@pytest.mark.faults(21)
def test_a_number_edited_in_the_report_is_named_and_the_pages_no_longer_belong_to_it(study: Path):
    document = json.loads(REPORT.read_bytes())
    document["tables"]["table1"]["rows"][3]["clean_accuracy"]["reproduced"] = 0.99
    REPORT.write_text(json.dumps(document))
    found = verify(REPORT)
    assert any(
        line.startswith(
            "tables.table1.rows[cc6m 100k mmcl_ssl].clean_accuracy.reproduced: 0.99 in the report"
        )
        for line in found
    )
    assert any(line.startswith("index.html: built from another report.json") for line in found)
    assert "report.tex: built from another report.json" in found


@pytest.mark.faults(21)
def test_a_vanished_run_is_named(study: Path):
    shutil.rmtree("results/mini/clean/cc3m-mmcl")
    assert any("cc3m-mmcl" in line for line in verify(REPORT))


@pytest.mark.faults(21)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path):
    (tmp_path / "report.json").write_text("{")
    assert "not JSON" in verify(tmp_path / "report.json")[0]
    (tmp_path / "report.json").write_text("{}")
    assert verify(tmp_path / "report.json") == ["report.json: 'profile' is missing"]


def test_last_digits_of_other_libraries_are_no_difference():
    assert differences({"a": [0.1]}, {"a": [0.1 + 1e-14]}) == []
    assert differences({"a": [0.1]}, {"a": [0.1 + 1e-6]}) != []
    assert differences({"a": 1}, {"a": True}) != []
    assert differences({"a": 1}, {}) == ['a: 1 in the report, "nothing" from the ledger']
