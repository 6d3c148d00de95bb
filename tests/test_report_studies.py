"""Studies in the report: effects are paired over seeds, those below the spread are undecided, verdicts are compared."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from ledger_fixture import build_at, write_run, write_specs

from repro.archive import write_archive
from repro.ledger import read_results
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.verify import verify
from repro.spec import Profile, SpecError

SPEC = """
question: Does it matter?
profile: mini
stages: [pretrain, clean]
datasets: [cc3m]
variants:
  default: {overrides: {}, poisoned: true, pretrain_objectives: [mmcl], seeds: [0, 1, 2], why: as it is}
  worse: {overrides: {switches.text_view: redrawn}, poisoned: true, pretrain_objectives: [mmcl], seeds: [0, 1, 2], why: "<b>why</b>"}
"""
START = {0: 0.40, 1: 0.42, 2: 0.44}
"""Accuracy of the default before cleaning, by seed; the variant is two points below it."""
KEPT = {"default": (0.40, 0.42, 0.44), "worse": (0.20, 0.205, 0.21)}
"""Accuracy after cleaning: nothing lost, and about half."""
ASR_SHIFT = {0: 0.02, 1: -0.02, 2: 0.01}
"""What the variant adds to the ASR before cleaning: no sign common to the seeds."""


def write_side_study(root: Path) -> Profile:
    profile = write_specs(root)
    (root / "specs/studies/matter.yaml").write_text(SPEC)
    seeds = load_profile("mini", root / "specs", {"pretrain.seeds": [0, 1, 2]})
    for variant in ("default", "worse"):
        for spec in [*pretrain_runs(seeds, "cc3m", "mmcl", variant=variant), *clean_runs(seeds, "cc3m", "mmcl", variant=variant)]:
            if spec.stage == "pretrain" or spec.loss == "mmcl_ssl":
                accuracy = START[spec.seed] - (0.02 if variant == "worse" else 0)
                asr = 0.9 + (ASR_SHIFT[spec.seed] if variant == "worse" else 0)
                after = [] if spec.stage == "pretrain" else [(KEPT[variant][spec.seed], 0.02)]
                write_run(root / "made", spec, [(accuracy, asr), *after])
    write_archive(root / "results/studies/matter.jsonl.gz", ((record, rows) for _, record, rows in read_results(root / "made")))
    shutil.rmtree(root / "made")
    return profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    write_side_study(root)
    return root


def test_effects_are_paired_and_those_below_the_spread_are_undecided(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Accuracy: -2 points at each seed, so the interval is a point; ASR: 2, -2, 1, whose interval holds zero."""
    document, page = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    (study,) = document["studies"]
    assert study["default"] == "default"
    (row,) = [r for r in study["rows"] if r["variant"] == "worse"]
    assert row["seeds"] == [0, 1, 2]
    accuracy, asr = row["effects"]["accuracy"], row["effects"]["asr"]
    assert accuracy["value"] == pytest.approx(-0.02)
    assert accuracy["ci"] == pytest.approx([-0.02, -0.02])
    assert not accuracy["undecided"]
    assert asr["value"] == pytest.approx(0.01 / 3, abs=1e-9)
    assert asr["undecided"]
    assert row["effects"]["cleaned_accuracy"]["value"] == pytest.approx(-0.215, abs=1e-9)
    assert "−2.00" in page
    assert "&lt;b&gt;why" in page


def test_a_variant_that_loses_half_could_change_the_verdict_that_mmcl_cleans(folder: Path, monkeypatch: pytest.MonkeyPatch):
    document, _ = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    (row,) = [r for r in document["studies"][0]["rows"] if r["variant"] == "worse"]
    verdicts = {v["id"]: (v["default"], v["variant"]) for v in row["verdicts"]}
    assert verdicts["mmcl-cleans"] == ("reproduced", "not reproduced")
    assert row["could_change"] == "yes"
    (default,) = [r for r in document["studies"][0]["rows"] if r["variant"] == "default"]
    assert (default["effects"], default["verdicts"], default["could_change"]) == (None, [], None)


def test_verify_covers_studies_and_the_main_tables_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch):
    document, _ = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    assert verify(Path("out/report.json")) == []
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None
    archive = Path("results/studies/matter.jsonl.gz")
    content = archive.read_bytes()
    archive.write_bytes(gzip.compress(gzip.decompress(content).replace(b'"num_correct": 1', b'"num_correct": 2', 1)))
    found = verify(Path("out/report.json"))
    archive.write_bytes(content)
    assert any("studies" in line for line in found)


def test_a_study_file_that_is_none_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_side_study(tmp_path)
    (tmp_path / "specs/studies/matter.yaml").write_text("question: 3\nprofile: mini\nvariants: {}\n")
    with pytest.raises(SpecError, match=r"matter\.yaml: question: "):
        build_at(tmp_path, profile, monkeypatch)
