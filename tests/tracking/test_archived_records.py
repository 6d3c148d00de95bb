"""Archived runs in Omniboard: as records of their own, once, beside one's own runs."""

from pathlib import Path
from typing import Any

import pytest

from repro.study.archive import read_archive
from repro.tracking.server import copies
from repro.view import archived_records
from repro.view.archived_records import STUDY, add_archive, document, points
from tests.support.tracking import needs_server, record


def test_a_run_has_the_fields_that_columns_and_chart_ask_for(root: Path) -> None:
    runs = read_archive(root / "results/studies" / f"{STUDY}.jsonl.gz")
    of, rows = next((of, rows) for of, rows in runs if of.spec.stage == "clean")
    made = document(7, "archive/x", of, rows)
    assert made["config"]["archived"] == STUDY
    assert made["status"] == "COMPLETED"
    assert made["config"]["learning_rate"] == of.spec.schedule.learning_rate
    assert made["result"]["attack_success_rate"] == rows[-1].asr("all")
    series = {one["name"]: one for one in points(7, of, rows)}
    assert series["zero_shot_top1"]["steps"] == [row.step for row in rows]
    assert series["attack_success_rate"]["values"][-1] == round(rows[-1].asr("all"), 4)
    assert {one["run_id"] for one in series.values()} == {7}


@needs_server
def test_the_archive_comes_once_and_own_runs_stay(
    root: Path, here: Path, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = read_archive(root / "results/studies" / f"{STUDY}.jsonl.gz")[:3]
    monkeypatch.setattr(archived_records, "_archived", lambda: iter(runs))
    copies.copy_record(record(), database)
    assert add_archive(database) == add_archive(database) == 3
    copies.copy_record(record(), database)
    kept = sorted(database.runs.find({}, {"_id": 1, "config": 1}), key=lambda run: run["_id"])
    assert [run["_id"] for run in kept] == [-3, -2, -1, 1, 2]
    assert [run["config"].get("archived") for run in kept] == [*[STUDY] * 3, None, None]
    assert database.metrics.count_documents({"run_id": -2}) == 3
