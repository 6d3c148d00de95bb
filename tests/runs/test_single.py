"""One command steps through a run: real pdb, the real worker, data of noise; what it asks before."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.data import stages
from repro.launch import single
from repro.profile import load_profile
from repro.runs.run import Run
from repro.spec import SpecError
from repro.train.step import training_step
from tests.support.synthetic import noise_profile, small_overrides, write_profile

RUN = ["run-one", "pretrain", "--profile", "noise", "--dataset", "cc3m", "--objective", "mmcl"]


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a profile `noise` and its data."""
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        noise_profile(root, {})
        Path("specs").unlink()
        subprocess.run(["cp", "-r", str(root / "specs"), "specs"], check=True)
        write_profile("noise", small_overrides(root))
        for kind in ("data", "poisoned"):
            Path(kind, "paper").rename(Path(kind, "noise"))
    return folder


def repro(root: Path, folder: Path, *python: str, typed: str = "") -> str:
    first = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *python, "-m", "repro", *RUN]
    done = subprocess.run(
        command, cwd=folder, env=first, input=typed, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_a_debugger_stops_in_the_training_step(root: Path, folder: Path) -> None:
    lines, first = inspect.getsourcelines(training_step)
    number = next(n for n, line in enumerate(lines, start=first) if "zero_grad" in line)
    place = f"{inspect.getsourcefile(training_step)}:{number}"
    output = repro(
        root, folder, "-m", "pdb", "-c", f"b {place}", "-c", "c", typed="p images.shape\nw\nq\n"
    )
    assert f"step.py({number})training_step()" in output
    assert "torch.Size([1, " in output
    # The whole way stands in the one stack: command line, worker, loop, step.
    for frame in ("step_through()", "run_one()", "train()", "training_step()"):
        assert frame in output


def test_a_run_ends_without_a_debugger_and_publishes_nothing(root: Path, folder: Path) -> None:
    output = repro(root, folder)
    (left,) = Path(folder, "work", "single").glob("*/outcome.json")
    assert json.loads(left.read_bytes())["status"] == "completed"
    assert left.parent.relative_to(folder).as_posix() in output
    assert not Path(folder, "results").exists()
    assert not Path(folder, "models").exists()


@pytest.fixture
def poisoned(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of poisoned pairs in a working folder where nothing is trained."""
    store = Path("poisoned/smoke/cc3m")
    store.mkdir(parents=True)
    stages.write_settings(store, stages.poison_settings(load_profile("smoke")))
    monkeypatch.setattr(single, "identify", lambda spec, *_: Run(spec, "0" * 16, {}, "code"))
    monkeypatch.setattr(single, "main", lambda path: None)
    return store


def test_pairs_of_other_settings_are_refused(poisoned: Path) -> None:
    settings = stages.poison_settings(load_profile("smoke"))
    single.step_through("pretrain", "smoke", "cc3m", "mmcl")
    settings["data"]["poison"]["trigger"]["patch_size"] = 4
    stages.write_settings(poisoned, settings)
    with pytest.raises(SpecError, match=r"poisoned/smoke/cc3m: made with .*patch_size: 4"):
        single.step_through("pretrain", "smoke", "cc3m", "mmcl")


def test_the_cache_may_be_a_link_to_a_folder_that_is_not_there(poisoned: Path) -> None:
    Path("work").mkdir()
    Path("work/cache").symlink_to(Path("scratch/cache").absolute())
    single.step_through("pretrain", "smoke", "cc3m", "mmcl")
    assert (single.FOLDER / "cache").is_dir()
