"""Whole graphs, data to report, of what is bought before the paper's scale: CC3M alone, and a night on
one GPU. Shards have the true shape, models toy size.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import dvc, fresh_checkout
from tests.support.synthetic import small_overrides, write_all, write_profile

TWO = {"REPRO_SLOTS": "2", "REPRO_RANKS": "1"}


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of the published runs, by folder."""
    found = {}
    for path in (folder / "results").rglob("run.json"):
        found[str(path.parent)] = json.loads(path.read_text())
    return found


def kinds(found: dict[str, dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    """How many runs there are of each stage, dataset and status."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for record in found.values():
        spec = record["spec"]
        counts[spec["stage"], spec["dataset"], record["status"]] += 1
    return counts


def report_of(folder: Path, profile: str) -> Any:
    return json.loads((folder / "report/build" / profile / "report.json").read_text())


@pytest.mark.nightly
def test_cc3m_alone_is_a_whole_study_and_cc6m_may_follow(root: Path, tmp_path: Path) -> None:
    """Without a folder of CC12M nothing of CC6M is asked for; with it CC3M is not made again."""
    folder = fresh_checkout(root, tmp_path / "study")
    incoming = folder / "incoming" / "rehearsal"
    write_all(incoming)
    (incoming / "cc12m").rename(tmp_path / "cc12m")
    small = small_overrides(root)
    for cell in small["clean"]["cells"]:
        cell["losses"] = ["mmcl_ssl"]
    write_profile("rehearsal", small, folder / "specs")
    (folder / "params.yaml").write_text("profile: rehearsal\n")

    said = dvc(folder, "repro", **TWO)
    assert "cc12m is not there; the study goes without cc6m" in said
    alone = records(folder)
    expected = {
        ("pretrain", "cc3m", "completed"): 2,
        ("clean", "cc3m", "completed"): 2,
    }
    assert kinds(alone) == expected
    missing = report_of(folder, "rehearsal")["missing"]
    assert {run["model_name"].partition("-")[0] for run in missing} == {"cc6m"}
    assert "up to date" in dvc(folder, "repro", **TWO)

    (tmp_path / "cc12m").rename(incoming / "cc12m")
    dvc(folder, "repro", "--force", "--single-item", "data@rehearsal")
    dvc(folder, "repro", **TWO)
    both = records(folder)
    more = {
        ("pretrain", "cc6m", "completed"): 2,
        ("clean", "cc6m", "completed"): 4,
    }
    assert kinds(both) == expected | more
    for name, record in alone.items():
        assert both[name]["started"] == record["started"]
    assert not report_of(folder, "rehearsal")["missing"]


@pytest.mark.nightly
def test_a_night_runs_from_one_folder_of_shards_to_a_report(root: Path, tmp_path: Path) -> None:
    """The profile `night` with its images of 96 px, its bfloat16 and its parts of captions."""
    folder = fresh_checkout(root, tmp_path / "study")
    write_all(folder / "incoming" / "rehearsal")
    pairs = "incoming/rehearsal/cc3m"
    counted = {"epochs": 2, "warmup_steps": 2}
    small = {
        "data.source.pairs": {"cc3m": pairs, "cc6m": pairs},
        "data.source.evaluation": "incoming/rehearsal/imagenet-validation",
        "data.source.images_per_class": 1,
        "data.num_pairs": {"cc3m": 48, "cc6m": 96},
        "data.poison.num_poisoned": {"cc3m": 4, "cc6m": 8},
        "data.cleaning_sizes": {"100k": 16, "200k": 32},
        "pretrain.model.embed_dim": 32,
        "pretrain.model.vision": {"layers": [1, 1, 1, 1], "width": 2, "head_width": 32},
        "pretrain.model.text": {"width": 32, "heads": 2, "layers": 1},
        "pretrain.objectives": {
            name: counted | {"global_batch_size": 32, "norm_batch_size": 16}
            for name in ("mmcl", "mmcl_ssl")
        },
        "pretrain.evaluate_every_epochs": 2,
        "clean.epochs": 1,
        "clean.warmup_steps": 1,
        "clean.evaluations_per_epoch": 1,
        "clean.cells": {"*": {"learning_rates": [1e-4], "global_batch_size": 16}},
        "evaluate.templates": ["a photo of a {}", "a drawing of a {}"],
    }
    write_profile("short", small, folder / "specs", "night")
    (folder / "params.yaml").write_text("profile: short\n")
    dvc(folder, "repro", **TWO)
    found = records(folder)
    assert kinds(found) == {
        ("pretrain", "cc3m", "completed"): 2,
        ("pretrain", "cc6m", "completed"): 2,
        ("clean", "cc3m", "completed"): 6,
        ("clean", "cc6m", "completed"): 8,
    }
    specs = [of["spec"] for of in found.values()]
    assert {of["precision"] for of in specs} == {"bf16"}
    assert {of["text_parts"] for of in specs} == {4}
    report = report_of(folder, "short")
    assert not report["missing"]
    assert report["tables"]["table1"]["rows"]
    page = (folder / "report/build/short/index.html").read_text()
    assert "a regime that nobody has tried" in page
