"""The edits of docs/extend.md: few files, taken up by trainings and report, no other run stale."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from repro.data.shards import PairStore
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.train.build import build_model
from tests.extend import fingerprints
from tests.extend.documented import copy_of_package, extend, sections
from tests.support.ledger import outcome, write_run
from tests.support.visible import visible_text

BOUNDS = {"A trigger": 2, "An objective": 2, "A defence": 2}
BOUNDS |= {"A measure of the verdicts": 2, "A figure": 1, "A table column": 1}
BOUNDS |= {"A profile or a study": 1}
"""Files that an extension may touch at most."""
NUMBERS = {"one": 1, "two": 2}


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
    command = [sys.executable, *arguments]
    first = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=first, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_an_extension_touches_few_files(touched: tuple[Path, dict[str, set[str]]]) -> None:
    _, made = touched
    counts = {}
    for heading, files in made.items():
        what, _, said = heading.removesuffix("s").removesuffix(" file").partition(": ")
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
    assert {spec["stage"] for spec in specs} == {"pretrain", "clean"}
    assert len(specs) == 2
    triggers = [spec["trigger"] for spec in specs]
    assert triggers == [{"name": "checkerboard", "patch_size": 8}] * 2
    assert {spec["pretrain_objective"] for spec in specs} == {"sigmoid"}

    texts = [path.read_text() for path in copy.glob("work/studies/toys/**/rows.jsonl")]
    losses = [json.loads(line)["train_loss"] for line in "".join(texts).splitlines()]
    terms = [set(loss) for loss in losses if loss]
    assert {"loss", "sigmoid"} in terms
    assert {"loss", "mmcl", "ssl"} in terms


def test_the_checkerboard_lies_in_its_corner_by_the_size_of_the_study(reported: Path) -> None:
    """The last pixels of every poisoned image, by the picture's definition."""
    copy = reported.parents[2]
    (poisoned,) = copy.glob("poisoned/studies/*/cc3m")
    store = PairStore.open(poisoned)
    rows, columns = np.indices((8, 8))
    board = np.where((rows + columns) % 2, 255, 0)
    for row in store.rows("poisoned").tolist():
        image = store.decode(row, 32)
        assert (image[-8:, -8:] == board[..., None]).all()
        assert (image[-9:, -9:] != 0).any()


def test_a_model_of_an_objective_with_modules_is_one_like_all_others(reported: Path) -> None:
    """Pre-trained with its bias, cleaned and loaded without."""
    copy = reported.parents[2]
    (path,) = copy.glob("models/**/*seed0/model.safetensors")
    (moments,) = copy.glob("models/**/*seed0/optimizer.safetensors")
    for file in (path, moments):
        assert not [name for name in load_file(file) if name.startswith("objective")]
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    model.load_state_dict(load_file(path))


def test_the_defence_draws_the_weights_towards_their_start(
    touched: tuple[Path, dict[str, set[str]]],
) -> None:
    """One plain step of SGD at 0.1 from weights of 3 with a start of 1, a gradient of 0 and a
    weight of 0.5: 3 - 0.1 * 0.5 * 2.
    """
    copy, _ = touched
    code = (
        "import torch\n"
        "from repro.train.defences import DEFENCES\n"
        "from repro.train.objectives import Step\n"
        "model = torch.nn.Linear(2, 1, bias=False)\n"
        "torch.nn.init.constant_(model.weight, 3.0)\n"
        "def backward():\n"
        "    model.weight.grad = torch.zeros_like(model.weight)\n"
        "    return {'loss': torch.zeros(())}\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "start = {'weight': torch.ones(1, 2)}\n"
        "DEFENCES['l2_sp'].step(Step(model, optimizer, backward, {'weight': 0.5}, start))\n"
        "print(model.weight.tolist()[0])"
    )
    assert json.loads(python(copy, "-c", code)) == pytest.approx([2.9, 2.9])


def test_the_examples_are_typed(touched: tuple[Path, dict[str, set[str]]], root: Path) -> None:
    copy, made = touched
    files = {name for changed in made.values() for name in changed if name.endswith(".py")}
    cache = f"--cache-dir={root / '.mypy_cache'}"
    assert "Success" in python(copy, "-m", "mypy", cache, *sorted(files))


def test_the_report_shows_the_new_entries(reported: Path) -> None:
    document: dict[str, Any] = json.loads((reported / "report.json").read_text())
    (study,) = document["studies"]
    assert study["triggers"] == {"checkerboard": "checkerboard in the lower right corner"}
    assert study["defences"] == {"l2_sp": "decay to the start"}
    (row,) = study["rows"]
    assert row["pretrain_objective"] == "sigmoid"
    assert row["tried"] == 1
    measures = [of["measure"] for of in document["verdicts"]["exploratory"]]
    assert "highest_asr" in measures

    studies, index = (
        visible_text((reported / name).read_text()) for name in ("studies.html", "index.html")
    )
    shown = "Triggers: checkerboard in the lower right corner. Defences: decay to the start."
    assert shown in studies
    assert "CC3M, 100K, sigmoid loss (1)" in studies
    assert "Highest ASR" in index
    assert "Evaluations by their ASR." in index
    assert (reported / "figures/histogram.pdf").is_file()
    table = index[index.index("Table 1.") : index.index("Table 2.")]
    assert "| Lost: paper" in table
    assert "| 16.9" in table  # 1 - 0.1416 / 0.1704
    assert "Lost: paper" in (reported / "report.tex").read_text()
    assert "lost_paper" in (reported / "table1.csv").read_text().splitlines()[0]
