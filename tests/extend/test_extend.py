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
from repro.profile import load_profile
from repro.train.build import build_model
from tests.extend import fingerprints
from tests.extend.documented import copy_of_package, extend, sections
from tests.support.visible import visible_text

BOUNDS = {"A trigger": 2, "An objective": 2, "A defence": 2, "The row of a new entry": 1}
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
    """The report of `smoke` with the study of the new entries."""
    copy, _ = touched
    python(copy, "-m", "repro", "study", "mine")
    python(copy, "-m", "repro", "report", "smoke")
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
    records = [
        (path.parent, json.loads(path.read_text())["spec"])
        for path in copy.glob("work/studies/mine/**/run.json")
    ]
    (defended,) = (
        spec for _, spec in records if (spec["variant"], spec["stage"]) == ("l2_sp", "clean")
    )
    assert defended["defence"] == {"name": "l2_sp", "weight": 0.5}

    sigmoids = {spec["stage"]: (folder, spec) for folder, spec in records if is_sigmoid(spec)}
    assert sigmoids.keys() == {"pretrain", "clean"}
    terms = {}
    for stage, (folder, spec) in sigmoids.items():
        assert spec["trigger"] == {"name": "checkerboard", "patch_size": 8}
        rows = (folder / "rows.jsonl").read_text().splitlines()
        losses = [json.loads(row)["train_loss"] for row in rows]
        terms[stage] = {term for loss in losses if loss for term in loss}
    assert terms == {"pretrain": {"loss", "sigmoid"}, "clean": {"loss", "mmcl", "ssl"}}


def is_sigmoid(spec: dict[str, Any]) -> bool:
    return bool(spec["pretrain_objective"] == "sigmoid")


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
    (path,) = copy.glob("models/**/cc3m-sigmoid/*seed0/model.safetensors")
    (moments,) = copy.glob("models/**/cc3m-sigmoid/*seed0/optimizer.safetensors")
    for file in (path, moments):
        assert not [name for name in load_file(file) if name.startswith("objective")]
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    model.load_state_dict(load_file(path))


def test_the_test_of_the_defence_passes_and_can_fail(
    touched: tuple[Path, dict[str, set[str]]],
) -> None:
    copy, _ = touched
    test = copy / "tests/train/test_l2_sp.py"
    python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))

    stronger = copy / "tests/train/test_l2_sp_stronger.py"
    stronger.write_text(test.read_text().replace('{"weight": 0.5}', '{"weight": 0.6}'))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(stronger)]
    first = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=first, capture_output=True, text=True)
    assert "1 failed" in done.stdout


def test_the_examples_are_typed(touched: tuple[Path, dict[str, set[str]]], root: Path) -> None:
    copy, made = touched
    files = {name for changed in made.values() for name in changed if name.endswith(".py")}
    cache = f"--cache-dir={root / '.mypy_cache'}"
    assert "Success" in python(copy, "-m", "mypy", cache, *sorted(files))


def test_the_report_shows_the_new_entries(reported: Path) -> None:
    document: dict[str, Any] = json.loads((reported / "report.json").read_text())
    (study,) = document["studies"]
    assert study["triggers"]["checkerboard"] == "checkerboard in the lower right corner"
    assert study["defences"]["l2_sp"] == "decay to the start"
    rows = {row["variant"]: row for row in study["rows"]}
    assert rows.keys() == {"plain", "l2_sp", "sigmoid"}
    assert rows["sigmoid"]["pretrain_objective"] == "sigmoid"
    assert rows["l2_sp"]["tried"] == 1

    studies = visible_text((reported / "studies.html").read_text())
    assert "checkerboard in the lower right corner" in studies
    assert "decay to the start" in studies
    assert "CC3M, 100K, sigmoid loss (1)" in studies
