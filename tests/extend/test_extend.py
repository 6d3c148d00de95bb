"""The edits of docs/extend.md: few files, taken up by trainings and report, no other run stale."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from tests.extend import fingerprints
from tests.extend.documented import copy_of_package, extend, sections
from tests.support.ledger import outcome, study_spec, write_run
from tests.support.visible import visible_text

pytestmark = pytest.mark.slow

BOUNDS = {"A trigger": 2, "An objective": 4, "A defence": 4}
BOUNDS |= {"A measure of the verdicts": 2, "A figure": 2, "A table column": 2}
"""Files that an extension may touch at most."""
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
SCHEDULE = {"epochs": 1, "warmup_steps": 2, "global_batch_size": 32, "norm_batch_size": 16}
OVERRIDES = {
    "data.poison.trigger.name": "negative_columns",
    "pretrain.objectives.sigmoid": {**SCHEDULE, "learning_rate": 1.0e-3},
    "pretrain.model_age.cc3m.sigmoid": "last",
    "pretrain.model_age.cc6m.sigmoid": "last",
    "clean.cells.*.pretrain_objectives": ["sigmoid"],
    "clean.defence": {"name": "pull", "weight": 0.5},
}


def toys() -> dict[str, Any]:
    """A study of one model of trigger, objective and defence of the page, cleaned once."""
    study = study_spec({"toys": OVERRIDES}, profile="smoke", learning_rates=[1.0e-3])
    content: dict[str, Any] = json.loads(study.model_dump_json())
    content["variants"]["toys"]["pretrain_objectives"] = ["sigmoid"]
    return content


@pytest.fixture(scope="module")
def touched(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, set[str]]]:
    """A copy of the package with all edits of the page, and the files that each touched."""
    copy = tmp_path_factory.mktemp("extended")
    copy_of_package(root, copy)
    made = {
        heading: extend(copy, blocks)
        for heading, blocks in sections(root / "docs/extend.md").items()
    }
    (copy / "specs/studies/toys.yaml").write_text(json.dumps(toys()))  # JSON is YAML
    return copy, made


@pytest.fixture(scope="module")
def reported(touched: tuple[Path, dict[str, set[str]]]) -> Path:
    """The report of `smoke` with the study of the new entries; its own runs are made up."""
    copy, _ = touched
    profile = load_profile("smoke")
    runs = [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]
    for spec in runs:
        if spec.stage == "pretrain" or spec.loss == "mmcl_ssl":
            rate = min(1.0, spec.schedule.learning_rate / 1e-3)
            write_run(copy, spec, [outcome(spec, step / 2, rate) for step in range(3)])

    python(copy, "-m", "repro", "study", "toys")
    python(copy, "-m", "repro", "report", "--profile", "smoke")
    return copy / "report/build/smoke"


def python(copy: Path, *arguments: str) -> str:
    """What Python prints, run with the package of the copy."""
    command, first = [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=first, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_an_extension_touches_few_files(touched: tuple[Path, dict[str, set[str]]]) -> None:
    _, made = touched
    counts = {}
    for heading, files in made.items():
        what, _, said = heading.removesuffix(" files").partition(": ")
        assert len(files) == NUMBERS[said], files
        counts[what] = len(files)
    assert counts.keys() == BOUNDS.keys()
    assert all(counts[what] <= most for what, most in BOUNDS.items()), counts


def test_no_run_that_does_not_name_them_changes(
    touched: tuple[Path, dict[str, set[str]]], root: Path
) -> None:
    copy, _ = touched
    said = json.loads(python(copy, str(root / "tests/extend/fingerprints.py")))
    assert Path(said["package"]) == copy / "repro"
    expected = fingerprints.digests()
    assert len(expected) > 500
    assert said["digests"] == expected


def test_trainings_name_the_new_entries(reported: Path) -> None:
    copy = reported.parents[2]
    records = copy.glob("work/studies/toys/**/run.json")
    specs = [json.loads(path.read_text())["spec"] for path in records]
    assert {spec["stage"] for spec in specs} == {"pretrain", "clean"} and len(specs) == 2
    assert {spec["trigger"]["name"] for spec in specs} == {"negative_columns"}
    assert {spec["pretrain_objective"] for spec in specs} == {"sigmoid"}

    texts = [path.read_text() for path in copy.glob("work/studies/toys/**/rows.jsonl")]
    losses = [json.loads(line)["train_loss"] for line in "".join(texts).splitlines()]
    terms = [set(loss) for loss in losses if loss]
    assert {"loss", "sigmoid"} in terms and {"loss", "pull", "mmcl", "ssl"} in terms


def test_the_report_shows_the_new_entries(reported: Path) -> None:
    document: dict[str, Any] = json.loads((reported / "report.json").read_text())
    (study,) = document["studies"]
    assert study["triggers"] == {"negative_columns": "every second column inverted"}
    assert study["defences"] == {"pull": "pull to the start"}
    (row,) = study["rows"]
    assert row["pretrain_objective"] == "sigmoid" and row["tried"] == 1
    measures = [of["measure"] for of in document["verdicts"]["exploratory"]]
    assert "lowest_asr" in measures

    studies, index = (
        visible_text((reported / name).read_text()) for name in ("studies.html", "index.html")
    )
    assert "Triggers: every second column inverted. Defences: pull to the start." in studies
    assert "CC3M, 100K, sigmoid loss (1)" in studies
    assert "Lowest ASR" in index
    assert "Evaluations by their ASR." in index
    assert (reported / "figures/histogram.pdf").is_file()
    table = index[index.index("Table 1.") : index.index("Table 2.")]
    assert "Pre-trained with | Lost: paper |" in table
    assert "| MMCL + SSL | 16.9 |" in table  # 1 - 0.1416 / 0.1704
