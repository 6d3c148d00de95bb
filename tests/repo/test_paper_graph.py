"""The graph of `paper` over noise of the true shape, at the counts of specs/rehearsal.yaml: loader
processes, images decoded at every step, groups of BatchNorm one after another; images of 32 px.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from repro.launch.driver import run_all
from repro.profile import clean_runs, pretrain_runs
from repro.runs.published import read_run
from tests.support.checkout import dvc, fresh_checkout
from tests.support.slurm import needs_slurm, running_cluster
from tests.support.synthetic import noise_profile, small_overrides, write_all, write_profile

SLURM = {
    "REPRO_LAUNCHER": "slurm",
    "REPRO_NODES": "2",
    "REPRO_RANKS": "4",
    "REPRO_SLOTS": "2",
    "REPRO_LOADER_WORKERS": "2",
    "REPRO_MEMORY_BYTES": "150000",
    "REPRO_SLURM_POLL_SECONDS": "1",
    "REPRO_SBATCH": "--mem=500",
    "REPRO_SBATCH_CLEAN": "--cpus-per-task=1",
    "REPRO_SBATCH_PRETRAIN": "--cpus-per-task=2",
}


@needs_slurm
@pytest.mark.nightly
def test_the_paper_graph_runs_through_slurm_to_a_report(
    root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through a real Slurm: pre-trainings on two nodes, two ranks each, cleaning runs as arrays."""
    folder = fresh_checkout(root, tmp_path / "study")
    write_all(folder / "incoming" / "rehearsal")
    small = small_overrides(root)
    for cell in small["clean"]["cells"]:
        cell["losses"] = ["mmcl_ssl"]
    write_profile("rehearsal", small, folder / "specs")
    (folder / "params.yaml").write_text("profile: rehearsal\n")
    with running_cluster(tmp_path_factory.mktemp("slurm")):
        dvc(folder, "repro", **SLURM)

    ends: Counter[tuple[str, str, int]] = Counter()
    for path in (folder / "results").rglob("run.json"):
        record = json.loads(path.read_text())
        ends[record["spec"]["stage"], record["status"], record["ranks"]] += 1
    assert ends == {
        ("pretrain", "completed", 4): 4,
        ("clean", "completed", 1): 6,
    }
    built = folder / "report/build/rehearsal"
    report = json.loads((built / "report.json").read_text())
    assert report["profile"] == "rehearsal"
    for row in report["tables"]["table1"]["rows"]:
        assert row["original_accuracy"]["n"] == 1000
    page = (built / "index.html").read_text()
    assert "numbers mean nothing" in page, "the page says what it stands on"
    accounting = json.loads((folder / "data/rehearsal/accounting.json").read_text())
    assert accounting["used"] == {"cc3m": 96, "cc6m": 192, "evaluation": 1000}

    caches = (folder / "work/cache").rglob("*.npy")
    shapes = {np.load(path, mmap_mode="r").shape for path in caches}  # of two axes: tokens
    decoded = {shape for shape in shapes if len(shape) == 4}
    assert decoded == {(1000, 32, 32, 3)}, "pairs are decoded at every step"
    # Two a rank in both pre-trainings with SSL; those without have one, for a plain step.
    logs = "".join(path.read_text() for path in (folder / "work/jobs").rglob("*.log"))
    assert re.findall(r"seed0: (\d+) BatchNorm groups a rank", logs) == ["2"] * 2 * 4


@pytest.mark.nightly
def test_paper_lean_on_eight_ranks_gives_the_rows_of_one_and_its_cleaning_is_given_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: bfloat16 rounds captions of other companions otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    small = {
        **dict.fromkeys(["pretrain.compile", "clean.compile"], False),
        **dict.fromkeys(["pretrain.precision", "clean.precision"], "fp32"),
        "data.source.images_per_class": 2,
        "pretrain.model_age": {name: {"mmcl": 1, "mmcl_ssl": 1} for name in ("cc3m", "cc6m")},
        "clean.epochs": 2,
        "clean.evaluations_per_epoch": 2,
        "clean.images_between": 1,
        "clean.stop_early": {"epochs": 1, "asr": 0.0},
    }
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
        assert record.status == "completed"
        assert record.ranks == ranks
    counts = ("step", "num_images", "num_correct", "num_attacked", "num_target_attacked")
    assert len(rows[1]) == 2
    for one, eight in zip(rows[1], rows[8], strict=True):
        for name in counts:
            assert getattr(one, name) == getattr(eight, name), name
        assert (one.train_loss or {}) == pytest.approx(eight.train_loss or {}, rel=1e-5)

    cleaning = [run for run in clean_runs(profile, "cc3m", "mmcl_ssl") if run.loss == "mmcl_ssl"]
    run_all(cleaning)
    (folder,) = Path("results").rglob(cleaning[0].run_id)
    record, cleaned = read_run(folder)
    assert record.status == "completed"
    assert record.reason == "given up: no ASR below 0 in 1 epochs"
    assert [(row.epoch, row.num_images) for row in cleaned] == [(0, 2000), (0.5, 1000), (1, 2000)]
