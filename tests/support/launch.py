"""Whole launches with the stub worker, for tests of the launcher."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.launch.driver import run_all
from repro.ledger import Row, RunRecord
from repro.profile import load_profile
from repro.runs.layout import results_dir
from repro.runs.published import read_results, read_run
from repro.spec import Profile, RunSpec
from tests.support.synthetic import cleaning_cell

Launch = Callable[..., None]


@pytest.fixture
def profile(root: Path) -> Profile:
    """`smoke` with one model, cleaned at three learning rates."""
    cell = cleaning_cell(["mmcl"], [1e-3, 1e-4, 1e-5], 8)
    return load_profile("smoke", root / "specs", {"clean.cells": [cell]})


@pytest.fixture
def launch(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """`run_all` with the stub worker in an empty repository, two slots; behaviours by run id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("REPRO_SLOTS", "2")
    Path("pairs").write_text("pairs")
    Path("behaviour.json").write_text("{}")

    def run(
        specs: list[RunSpec],
        behaviour: dict[str, str] | None = None,
        worker: str = "tests.support.stub_worker",
    ) -> None:
        Path("behaviour.json").write_text(json.dumps(behaviour or {}))
        run_all(specs, stub_inputs, worker=worker)

    return run


def stub_inputs(spec: RunSpec) -> dict[str, Path]:
    return {"pairs": Path("pairs")}


def started() -> list[str]:
    """Run ids in the order of their starts since the last call."""
    path = Path("starts.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def published(specs: list[RunSpec]) -> dict[str, str]:
    """Status of every published run of the first spec's model."""
    results = read_results(results_dir(specs[0], Path("results")))
    return {folder.name: record.status for folder, record, _ in results}


def result(spec: RunSpec) -> tuple[RunRecord, list[Row]]:
    """Record and rows of a published run."""
    return read_run(results_dir(spec, Path("results")) / spec.run_id)


def tracked() -> dict[str, str]:
    """Status of every record of Sacred, by its number."""
    paths = Path("sacred/smoke").glob("*/run.json")
    return {path.parent.name: json.loads(path.read_bytes())["status"] for path in paths}


def start_driver(specs: list[RunSpec], behaviour: dict[str, str]) -> subprocess.Popen[str]:
    """`run_all` in a process of its own."""
    Path("behaviour.json").write_text(json.dumps(behaviour))
    Path("specs.json").write_text(json.dumps([spec.model_dump(mode="json") for spec in specs]))
    code = """
import json, sys
from pathlib import Path
from repro.launch.driver import run_all
from repro.runs.signals import Stopped, stoppable
from repro.spec import RunSpec
from repro.events import die_with_parent
die_with_parent()
specs = [RunSpec.model_validate(item) for item in json.loads(Path("specs.json").read_bytes())]
try:
    with stoppable():
        run_all(specs, lambda spec: {"pairs": Path("pairs")}, worker="tests.support.stub_worker")
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
