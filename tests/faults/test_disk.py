"""A disk that fills up during training: the cause is named, nothing partial has a final name, and
the next call goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.launch.driver import run_all
from repro.profile import pretrain_runs
from repro.runs.run import LaunchError
from repro.spec import Profile
from tests.support.synthetic import noise_profile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk"
    ),
]

OVERRIDES = {
    "pretrain.objectives": {
        "mmcl": {
            "learning_rate": 1e-3,
            "epochs": 1,
            "warmup_steps": 1,
            "global_batch_size": 32,
            "norm_batch_size": 32,
        }
    },
    "pretrain.evaluate_every_epochs": 1,
    "clean.cells": [
        {
            "datasets": ["cc3m"],
            "pretrain_objectives": ["mmcl"],
            "clean_sizes": ["100k"],
            "losses": ["mmcl"],
            "learning_rates": [1e-4],
            "global_batch_size": 16,
        }
    ],
}


@pytest.fixture
def small_work(tmp_path: Path) -> Iterator[Path]:
    """A folder `work` of 12 MiB: room for the data, but not for a model with its optimizer."""
    work = tmp_path / "work"
    work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", work], check=True)
    yield work
    subprocess.run(["umount", work], check=True)


@pytest.fixture
def profile(
    root: Path, tmp_path: Path, small_work: Path, monkeypatch: pytest.MonkeyPatch
) -> Profile:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("REPRO_RANKS", "1")
    monkeypatch.delenv("MONGO_URL", raising=False)
    return noise_profile(root, OVERRIDES)


def test_a_run_that_finds_the_disk_full_says_so_and_ends_well_when_there_is_room(
    profile: Profile, small_work: Path
) -> None:
    runs = pretrain_runs(profile, "cc3m", "mmcl")
    with pytest.raises((LaunchError, OSError), match="No space left on device"):
        run_all(runs)
    assert not list(Path("models").rglob("*.safetensors")), "nothing of it is published"
    assert not list(small_work.glob("*/optimizer.safetensors"))
    subprocess.run(["mount", "-o", "remount,size=200m", small_work], check=True)
    run_all(runs)
    assert sorted(path.name for path in Path("models").rglob("*.safetensors")) == [
        "model.safetensors",
        "optimizer.safetensors",
    ]
