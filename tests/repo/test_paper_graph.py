"""The graph of the profile `paper` over noise of the true shape, at the counts of
specs/rehearsal.yaml.

Through a real Slurm: pre-trainings on two nodes with an agent (torchrun) each and two ranks per
agent, cleaning runs as arrays. And on the ways of the full scale: loader processes, images decoded
at every step, groups of BatchNorm one after another. Images have 32 px, but for one model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from repro.launch.driver import run_all
from repro.profile import clean_runs, pretrain_runs
from repro.runs.published import read_run
from tests.support.checkout import dvc, fresh_checkout, up_to_date_within
from tests.support.loaders import counted_loaders
from tests.support.slurm import needs_slurm, running_cluster
from tests.support.synthetic import noise_profile, small_overrides, write_all, write_profile

SLURM = {
    "REPRO_LAUNCHER": "slurm",
    "REPRO_NODES": "2",
    "REPRO_RANKS": "4",
    "REPRO_LOADER_WORKERS": "2",
    "REPRO_MEMORY_BYTES": "500000",
    "REPRO_SLURM_POLL": "1",
    "REPRO_SLOTS": "2",
    "REPRO_SBATCH": "--mem=500",
    "REPRO_SBATCH_PRETRAIN": "--cpus-per-task=2",
    "REPRO_SBATCH_CLEAN": "--cpus-per-task=1",
}


@dataclass(frozen=True)
class Study:
    """A checkout whose graph has run to its end."""

    folder: Path
    loaders: dict[int, int]
    """The most loader processes of each rank that had any, by the number of its process."""


@pytest.fixture(scope="module")
def study(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A fresh checkout at the profile `rehearsal`, run once to its end."""
    folder = fresh_checkout(root, tmp_path_factory.mktemp("paper") / "study")
    write_all(folder / "incoming" / "rehearsal")
    write_profile("rehearsal", small_overrides(root), folder / "specs")
    (folder / "params.yaml").write_text("profile: rehearsal\n")
    with running_cluster(tmp_path_factory.mktemp("slurm")), counted_loaders(folder) as loaders:
        dvc(folder, "repro", **SLURM)
    return Study(folder, loaders)


@pytest.fixture(scope="module")
def checkout(study: Study) -> Path:
    """Its folder."""
    return study.folder


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_paper_graph_runs_through_slurm_to_a_report(checkout: Path) -> None:
    records = [
        json.loads(path.read_text()) for path in sorted((checkout / "results").rglob("run.json"))
    ]
    assert Counter(
        (record["spec"]["stage"], record["status"], record["ranks"]) for record in records
    ) == {
        ("pretrain", "completed", 4): 4,
        ("clean", "completed", 1): 18,
    }
    report = json.loads((checkout / "report/build/rehearsal/report.json").read_text())
    assert report["profile"] == "rehearsal"
    assert all(row["original_accuracy"]["n"] == 1000 for row in report["tables"]["table1"]["rows"])
    page = (checkout / "report/build/rehearsal/index.html").read_text()
    assert "numbers mean nothing" in page, "the page says what it stands on"
    accounting = json.loads((checkout / "data/rehearsal/accounting.json").read_text())
    assert accounting["used"] == {"cc3m": 96, "cc6m": 192, "evaluation": 1000}


@needs_slurm
@pytest.mark.slow
def test_the_rehearsal_makes_batches_in_loader_processes(study: Study) -> None:
    """Two for each rank: four pre-trainings on four ranks each, four jobs of cleaning on one."""
    assert Counter(study.loaders.values()) == {2: 4 * 4 + 4}


@needs_slurm
@pytest.mark.slow
def test_the_rehearsal_decodes_training_images_at_every_step(checkout: Path) -> None:
    assert cached_images(checkout / "work") == {(1000, 32, 32, 3)}


@needs_slurm
@pytest.mark.slow
def test_the_rehearsal_takes_groups_of_batch_norm_one_after_another(checkout: Path) -> None:
    """Two a rank in both pre-trainings with SSL; those without have one, for a plain step."""
    assert groups_a_rank(checkout / "work") == ["2"] * 2 * 4


@pytest.mark.slow
def test_the_rehearsal_takes_the_same_ways_with_images_of_the_true_size(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model of specs/rehearsal.yaml as it is, on two ranks: four groups of BatchNorm each."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PYTHONPATH": str(root),
        "REPRO_RANKS": "2",
        "REPRO_LOADER_WORKERS": "2",
        "REPRO_MEMORY_BYTES": "10000000",
    }.items():
        monkeypatch.setenv(name, value)
    true_size = {"data.image_size": 224, "pretrain.model.vision": {"image_size": 224, "width": 2}}
    profile = noise_profile(root, true_size)

    with counted_loaders(tmp_path) as loaders:
        run_all(pretrain_runs(profile, "cc3m", "mmcl_ssl"))

    (record,) = (json.loads(path.read_text()) for path in Path("results").rglob("run.json"))
    assert (record["status"], record["ranks"]) == ("completed", 2)
    assert list(loaders.values()) == [2, 2]
    assert cached_images(Path("work")) == {(1000, 224, 224, 3)}
    assert groups_a_rank(Path("work")) == ["4"] * 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_paper_lean_on_eight_ranks_gives_the_rows_of_one_and_its_cleaning_is_given_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torchrun and the worker, eight groups of BatchNorm; uncompiled, in float32,
    for bfloat16 rounds captions of other companions otherwise.

    Cleaning: the start, half an epoch on one of two images a class, the epoch's end, and no more.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    small = {
        **{f"{stage}.compile": False for stage in ("pretrain", "clean")},
        **{f"{stage}.precision": "fp32" for stage in ("pretrain", "clean")},
        "data.source.images_per_class": 2,
        "pretrain.model_age": {
            "cc3m": {"mmcl": 1, "mmcl_ssl": 1}, "cc6m": {"mmcl": 1, "mmcl_ssl": 1}
        },
        "clean.epochs": 2,
        "clean.evaluations_per_epoch": 2,
        "clean.images_between": 1,
        "clean.stop_early": {"epochs": 1, "asr": 0.0},
    }  # fmt: skip
    profile = noise_profile(root, small, "paper_lean")
    (spec,) = pretrain_runs(profile, "cc3m", "mmcl_ssl")
    assert spec.text_parts == 4

    rows = {}
    for ranks in (1, 8):
        for folder in ("results", "work", "models"):
            shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setenv("REPRO_RANKS", str(ranks))
        run_all([spec])
        (folder,) = Path("results").rglob("seed0")
        record, rows[ranks] = read_run(folder)
        assert (record.status, record.ranks) == ("completed", ranks)
    counts = ("step", "num_images", "num_correct", "num_attacked", "num_target_attacked")
    assert len(rows[1]) == 2
    for one, eight in zip(rows[1], rows[8], strict=True):
        assert [getattr(one, name) for name in counts] == [getattr(eight, name) for name in counts]
        assert (one.train_loss or {}) == pytest.approx(eight.train_loss or {}, rel=1e-5)

    cleaning = [run for run in clean_runs(profile, "cc3m", "mmcl_ssl") if run.loss == "mmcl_ssl"]
    run_all(cleaning)
    (folder,) = Path("results").rglob(cleaning[0].run_id)
    record, cleaned = read_run(folder)
    assert (record.status, record.reason) == ("completed", "given up: no ASR below 0 in 1 epochs")
    assert [(row.epoch, row.num_images) for row in cleaned] == [(0, 2000), (0.5, 1000), (1, 2000)]


def cached_images(work: Path) -> set[tuple[int, ...]]:
    """Shapes of the decoded sets that are kept; all other arrays are tokens."""
    shapes = {np.load(path, mmap_mode="r").shape for path in (work / "cache").rglob("*.npy")}
    return {shape for shape in shapes if len(shape) == 4}


def groups_a_rank(work: Path) -> list[str]:
    """What each rank that takes its BatchNorm groups one after another says their number is."""
    logs = [path.read_text() for path in (work / "packs").rglob("*.log")]
    return re.findall(r"seed0: (\d+) BatchNorm groups a rank", "".join(logs))


@needs_slurm
@pytest.mark.slow
def test_with_nothing_to_do_the_paper_graph_takes_five_seconds_at_most(checkout: Path) -> None:
    assert up_to_date_within(5, checkout)
