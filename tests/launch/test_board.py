"""What a stage prints where nobody watches: whole lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.launch import board
from repro.launch.board import Board
from repro.launch.packs import Pack
from repro.launch.places import Place
from repro.ledger import Input
from repro.profile import load_profile, pretrain_runs
from repro.runs.run import Run


@pytest.fixture
def due(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """One run of each of four cells, whose names together are wider than a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    specs = pretrain_runs(load_profile("smoke", root / "specs"))
    data: dict[str, Input] = {"pairs": {"path": "pairs", "hash": ""}}
    runs = [Run(spec, f"{number:016x}", data, "code") for number, spec in enumerate(specs)]
    for run in runs:
        run.save()
    return runs


def test_a_line_in_a_log_is_not_broken_however_long(
    due: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board, "LINE_SECONDS", 0.0)
    status = {"step": 3, "total_steps": 40, "epoch": 1.5, "state": "training"}
    for run in due:
        (run.work_dir / "status.json").write_text(json.dumps(status))
    with Board(due, due) as shown:
        shown.show([Pack((run,), Place((), 1, 1)) for run in due])

    first, second, third = capsys.readouterr().out.splitlines()
    cells = ", ".join(sorted(f"pretrain {run.spec.cell}" for run in due))
    assert first == f"{cells}: 4 to run, 0 up to date"
    assert second.startswith("0 of 4 runs done, time left unknown; ")
    assert all(f"{run.name} step 3/40" in second for run in due)
    assert third == "0 of 4 runs done in 0.0 min"
