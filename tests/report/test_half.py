"""The CC3M half of `paper_lean` alone, the first purchase of docs/gpu.md: a report of its own."""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import report_stage
from repro.spec import Profile
from tests.support.ledger import EVALUATIONS, ROOT, document_at, outcome, write_run

ABOUT_CC3M = ("drop-17-cc3m", "start-accuracy-cc3m", "mmcl-finetuning-costs-accuracy")


def half(folder: Path, seeds: str) -> Profile:
    """A folder with the runs of CC3M and no others, of so many seeds."""
    shutil.copytree(ROOT / "specs", folder / "specs")
    path = folder / "specs/paper.yaml"
    text = re.sub(r"^  seeds: \[0\]", f"  seeds: {seeds}", path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    profile = load_profile("paper_lean", folder / "specs")
    runs = [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]
    strongest = max(run.schedule.learning_rate for run in runs if run.stage == "clean")
    for run in runs:
        rate = run.schedule.learning_rate / strongest
        points = []
        for step in range(EVALUATIONS):
            accuracy, asr = outcome(run, step / (EVALUATIONS - 1), rate)
            # Not the same to the last image for every seed, which would leave no interval.
            points.append((accuracy - run.seed / 100, asr))
        write_run(folder, run, points)
    return profile


def verdicts(document: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Dataset and verdict of each cell, by claim."""
    return {
        claim["id"]: [(cell["dataset"], cell["verdict"]) for cell in claim["evidence"]]
        for claim in document["claims"]
    }


def test_its_report_has_its_tables_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the documented command; of one training a model no claim is decided."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    half(tmp_path, "[0]")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    report_stage("paper_lean")

    document = json.loads(Path("report/build/paper_lean/report.json").read_bytes())
    for row in document["tables"]["table1"]["rows"]:
        made = row["dataset"] == "cc3m"
        assert (row["original_accuracy"]["reproduced"] is not None) == made
        assert (row["clean_accuracy"]["reproduced"] is not None) == made
    assert {run["model_name"].partition("-")[0] for run in document["missing"]} == {"cc6m"}
    assert len(document["runs"]) == 2 + 78
    for cells in verdicts(document).values():
        told = {"cc3m": "undecided", "cc6m": "not run"}
        assert all(verdict == told[dataset] for dataset, verdict in cells)
    notes = {cell["note"] for claim in document["claims"] for cell in claim["evidence"]}
    assert "too few seeds" in notes


def test_with_three_seeds_its_claims_are_decided_without_those_of_cc6m(tmp_path: Path) -> None:
    found = verdicts(document_at(tmp_path, half(tmp_path, "[0, 1, 2]")))
    by_dataset = defaultdict(set)
    for cells in found.values():
        for dataset, verdict in cells:
            by_dataset[dataset].add(verdict)
    assert by_dataset["cc6m"] == {"not run"}
    assert by_dataset["cc3m"] & {"supported", "refuted"}

    assert found["start-accuracy-cc3m"] == [("cc3m", "undecided")] * 2
    assert found["mmcl-finetuning-costs-accuracy"][0][1] == "supported"
    assert set(ABOUT_CC3M) <= found.keys()
    for name in ABOUT_CC3M:
        assert {dataset for dataset, _ in found[name]} == {"cc3m"}
