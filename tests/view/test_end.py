"""What a call says at its end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repro.view import end
from repro.view.end import end_of_call

ROW = {"dataset": "cc6m", "clean_size": "200k", "inside": True}


def row(measure: str, of: str, value: float, *archived: float, **more: Any) -> dict[str, Any]:
    return ROW | {"measure": measure, "of": of, "value": value, "archived": archived} | more


def test_the_main_numbers_stand_beside_the_archive_and_then_the_pages(here: Path) -> None:
    rows = [
        row("asr_left_at_rate", "mmcl", 0.027, 0.03, 0.05),
        row("asr_left_at_rate", "mmcl_ssl", 0.384, 0.5, 0.7, inside=False),
        row("rate_doublings", "mmcl", -11.0, -12.0),
        row("rate_doublings", "mmcl", -1.0, -1.0, dataset="cc3m"),
    ]
    folder = Path("report/build/mini")
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"own_run": rows, "check": "mini is it."}))
    (folder / "report.pdf").touch()
    assert list(end_of_call("mini")) == [
        "CC6M, 200K: ASR left at one learning rate: MMCL 2.7% (mean of 2 archived seeds: "
        "4.0%), MMCL + SSL 38.4% (mean of 2 archived seeds: 60.0%)",
        "CC6M, 200K: learning rate that cleans: MMCL 4.9e-04 (one archived seed: 2.4e-04)",
        "mini is it.",
        "dvc.lock and report/metrics are those of this run, whose records hold times; "
        "`git checkout dvc.lock report/metrics` takes the published ones",
        "page: report/build/mini/index.html",
        "PDF: report/build/mini/report.pdf",
    ]


def test_values_of_ones_own_are_not_compared(here: Path) -> None:
    Path("params.yaml").write_text("profile: mini\noverrides: {clean.warmup_steps: 7}\n")
    [line] = [line for line in end_of_call("mini") if "archive" in line]
    assert line.startswith("Not compared with the archive: clean.warmup_steps: 7 instead of the")


def test_without_an_archive_or_tex_the_end_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end.shutil, "which", lambda name: None)
    lines = list(end_of_call("midi"))
    assert lines[0] == "midi has no archived runs to be compared with."
    assert lines[-1].startswith("PDF: none: no pdflatex is here")


def test_a_trial_says_that_all_works_and_what_comes_next(here: Path) -> None:
    folder = Path("report/build/smoke")
    folder.mkdir(parents=True)
    runs = {"results/smoke/clean/model/run": {}, "results/studies/seeds": {}}
    (folder / "report.json").write_text(
        json.dumps({"runs": runs, "own_run": [row("a", "mmcl", 1)]})
    )
    *_, works, means, following = end_of_call("smoke")
    assert works.startswith("The package works here: data, poisons, 1 training runs,")
    assert "mean nothing" in means
    assert re.match(r"Next: `make reproduce PROFILE=mini` .+ in \d+ to \d+ minutes", following)
