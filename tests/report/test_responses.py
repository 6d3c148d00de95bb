"""What a study measured over a number: read from a made-up archive, drawn, told, and compared at
equal accuracy before cleaning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.figures.responding import matched, responding
from repro.report.numbers.evidence import Settings
from repro.report.pages.findings import findings_block
from repro.report.pages.studied import attacks
from repro.report.schema.resistance import Resistance
from repro.report.studies.responses import cleaning_rate, equal_starts, responses
from repro.report.studies.results import StudyResults, read_study_results, variants_of
from repro.report.studies.words import matched_words
from repro.runs.published import read_results
from repro.spec import Objective, SpecError
from repro.study import run as study_run
from repro.study.archive import write_archive
from repro.study.asked import asked_runs, study_profiles
from repro.study.spec import load_study
from tests.support.ledger import study_spec, write_run, write_specs, write_study_spec

RATE = 1e-3
EPOCHS = {"short": 2, "default": 8, "long": 16}
ACCURACY: dict[tuple[str, Objective], float] = {
    ("short", "mmcl"): 0.2,
    ("default", "mmcl"): 0.3,
    ("long", "mmcl"): 0.4,
    ("short", "mmcl_ssl"): 0.3,
    ("default", "mmcl_ssl"): 0.4,
    ("long", "mmcl_ssl"): 0.5,
}
"""Before cleaning. The reference of MMCL + SSL is as good as the long-trained MMCL model."""
LEFT: dict[tuple[str, Objective], float] = {
    ("short", "mmcl"): 0.0,
    ("default", "mmcl"): 0.02,
    ("long", "mmcl"): 0.04,
    ("short", "mmcl_ssl"): 0.1,
    ("default", "mmcl_ssl"): 0.5,
    ("long", "mmcl_ssl"): 0.9,
}
"""ASR at the end of every cleaning run."""
SEEDS = [0, 1]


def resisted(asr: dict[float, float]) -> Resistance:
    """A report's resistance that tells the MMCL models' ASR left by learning rate."""
    equal = [{"learning_rate": rate, "mmcl": [{"asr": value}]} for rate, value in asr.items()]
    cell = {"dataset": "cc3m", "clean_size": "100k", "equal": equal}
    return {"cells": [cell]}  # type: ignore[typeddict-item]


def write_length_study(root: Path) -> None:
    """Three lengths of pre-training; seed 1 keeps two points more ASR than seed 0."""
    write_specs(root)
    changes: dict[str, dict[str, Any]] = {
        name: {} if name == "default" else {"pretrain.objectives.mmcl.epochs": epochs}
        for name, epochs in EPOCHS.items()
    }
    study = study_spec(changes, reference="default", axes=[{"name": "Epochs", "numbers": EPOCHS}])
    (root / "specs/studies/length.yaml").write_text(study.model_dump_json())

    for name, changed in changes.items():
        profile = load_profile("mini", root / "specs", changed | {"pretrain.seeds": SEEDS})
        runs = [
            *pretrain_runs(profile, "cc3m", variant=name),
            *(run for run in clean_runs(profile, "cc3m", variant=name) if run.loss == "mmcl_ssl"),
        ]
        for run in runs:
            key = (name, run.pretrain_objective)
            found = [(ACCURACY[key], 0.9)]
            if run.stage == "clean":
                found.append((ACCURACY[key] / 2, LEFT[key] + 0.02 * run.seed))
            write_run(root / "made", run, found)
    archive = ((record, rows) for _, record, rows in read_results(root / "made"))
    write_archive(root / "results/studies/length.jsonl.gz", archive)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("length")
    write_length_study(folder)
    return folder


@pytest.fixture(scope="module")
def settings(root: Path) -> Settings:
    return Settings.of(load_profile("mini", root / "specs"))


@pytest.fixture(scope="module")
def study(root: Path) -> StudyResults:
    (found,) = read_study_results("mini", root)
    return found


def test_the_rate_is_the_lowest_that_cleans_the_mmcl_models_on_average() -> None:
    found = resisted({1e-4: 0.5, RATE: 0.05, 2e-3: 0.0})
    assert cleaning_rate(found, 0.05, "cc3m", "100k") == RATE
    assert cleaning_rate(found, 0.05, "cc6m", "100k") is None
    assert cleaning_rate(resisted({RATE: 0.06}), 0.05, "cc3m", "100k") is None


def test_measures_stand_over_the_number_with_what_changes_and_what_differs(
    study: StudyResults, settings: Settings
) -> None:
    variants = variants_of([study], settings)
    (entry,) = responses(study, variants, resisted({RATE: 0.01}), settings)
    assert (entry["study"], entry["axis"], entry["learning_rate"]) == ("length", "Epochs", RATE)
    assert entry["tested"] == "asr_left"

    mmcl, with_ssl = entry["curves"]
    assert [point["number"] for point in mmcl["points"]] == [2, 8, 16]
    last = with_ssl["points"][-1]
    assert last["seeds"] == SEEDS
    assert last["measures"]["accuracy"]["mean"] == pytest.approx(0.5)
    assert last["measures"]["asr_left"]["values"] == pytest.approx([0.9, 0.92], abs=0.006)
    # Student's interval of two seeds is wider than what a share can be.
    assert last["measures"]["asr_left"]["ci"][1] == 1
    # No evaluation of it reaches the cap, so that all is lost; the MMCL model keeps half.
    assert last["measures"]["lost"]["mean"] == 1
    assert mmcl["points"][1]["measures"]["lost"]["mean"] == pytest.approx(0.5, abs=0.01)

    for objective, changes in entry["changes"].items():
        assert [change["number"] for change in changes] == [8, 16]
        least = LEFT[("short", objective)]
        for change, name in zip(changes, ("default", "long"), strict=True):
            grown = LEFT[(name, objective)] - least
            assert change["effect"]["value"] == pytest.approx(grown, abs=0.01)
    assert entry["changes"]["mmcl_ssl"][-1]["effect"]["value"] == pytest.approx(0.8, abs=0.01)
    assert [gap["number"] for gap in entry["gaps"]] == [2, 16]
    assert entry["gaps"][0]["effect"]["value"] == pytest.approx(0.1, abs=0.01)
    assert entry["gaps"][1]["effect"]["value"] == pytest.approx(0.86, abs=0.01)


def test_without_a_rate_that_cleans_the_asr_before_cleaning_is_what_is_told(
    study: StudyResults, settings: Settings
) -> None:
    variants = variants_of([study], settings)
    (entry,) = responses(study, variants, resisted({}), settings)
    assert (entry["learning_rate"], entry["tested"]) == (None, "asr")
    assert all("asr_left" not in p["measures"] for c in entry["curves"] for p in c["points"])
    assert equal_starts(study, variants, resisted({}), settings) == []


def test_at_equal_accuracy_the_nearest_mmcl_model_of_the_seed_is_compared(
    study: StudyResults, settings: Settings
) -> None:
    """The long-trained MMCL model is as good as the reference's MMCL + SSL model: 40%."""
    variants = variants_of([study], settings)
    (entry,) = equal_starts(study, variants, resisted({RATE: 0.01}), settings)
    for seed in entry["seeds"]:
        assert (seed["mmcl"]["variant"], seed["mmcl_ssl"]["variant"]) == ("long", "default")
    assert entry["accuracy"]["value"] == pytest.approx(0, abs=0.01)
    assert entry["asr_left"]["value"] == pytest.approx(0.46, abs=0.01)
    assert "the objective counts" in matched_words(entry)
    for effect, words in (
        ({"undecided": True, "value": 0.4}, "stays open"),
        ({"undecided": False, "value": -0.4}, "resist no more"),
    ):
        assert words in matched_words({"asr_left": effect})


def test_a_dot_a_seed_and_a_line_through_the_means_are_drawn(
    study: StudyResults, settings: Settings
) -> None:
    variants = variants_of([study], settings)
    found = resisted({RATE: 0.01})
    document = {
        "responses": responses(study, variants, found, settings),
        "equal_starts": equal_starts(study, variants, found, settings),
    }
    left, lost = responding(document).axes
    assert left.get_ylim() == lost.get_ylim() == (-0.04, 1.04)
    lines = {line.get_label(): line.get_xydata() for line in left.get_lines()}
    assert lines["MMCL + SSL"][:, 0].tolist() == [2, 8, 16]
    assert lines["MMCL + SSL"][:, 1] == pytest.approx([0.11, 0.51, 0.91], abs=0.01)
    dots = [dots for dots in left.collections if len(dots.get_offsets()) == 3 * len(SEEDS)]
    assert len(dots) == 2

    # At equal accuracy: every model a dot, every seed a line.
    left, _ = matched(document).axes
    assert len(left.get_lines()) == len(SEEDS)
    assert [len(dots.get_offsets()) for dots in left.collections] == [6, 6]


def test_a_gain_in_accuracy_is_within_the_picture(study: StudyResults, settings: Settings) -> None:
    entries = responses(study, variants_of([study], settings), resisted({RATE: 0.01}), settings)
    point = entries[0]["curves"][0]["points"][0]
    point["measures"]["lost"] = {"values": [-0.2, -0.1], "mean": -0.15, "ci": (-0.4, 0.1)}
    left, lost = responding({"responses": entries}).axes
    assert left.get_ylim()[0] == -0.04
    assert lost.get_ylim() == pytest.approx((-0.24, 1.04))


def test_the_attack_takes_from_the_number_on_from_which_no_asr_is_lower() -> None:
    def point(number: float, asr: float) -> dict[str, Any]:
        return {
            "variant": f"v{number}",
            "number": number,
            "seeds": [0],
            "measures": {"asr": {"values": [asr], "mean": asr, "ci": None}},
        }

    entry = {
        "study": "s",
        "axis": "Poisons",
        "dataset": "cc3m",
        "clean_size": None,
        "curves": [
            {
                "pretrain_objective": "mmcl",
                "points": [point(1, 0.9), point(2, 0.1), point(3, 0.5), point(4, 0.95)],
            },
            {"pretrain_objective": "mmcl_ssl", "points": [point(1, 0.1), point(4, 0.2)]},
        ],
    }
    described = [{"variant": f"v{n}", "why": f"{n} poisons"} for n in (1, 2, 3, 4)]
    document = {
        "responses": [entry],
        "studies": [{"name": "s", "question": "How many?", "variants": described}],
        "settings": {"attack_taken": 0.5},
    }
    (table,) = attacks(document)
    assert table.taken_from == {"mmcl": 3, "mmcl_ssl": None}
    assert [(row.number, row.why) for row in table.rows] == [
        (n, f"{n} poisons") for n in range(1, 5)
    ]
    assert table.rows[3].measures["mmcl_ssl"] == "responses/0/curves/1/points/1/measures"
    assert "mmcl_ssl" not in table.rows[1].measures


def test_an_axis_of_a_variant_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    content = json.loads((root / "specs/studies/length.yaml").read_text())
    content["axes"][0]["numbers"]["longest"] = 99
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/length.yaml").write_text(json.dumps(content))
    with pytest.raises(SpecError, match=r"axes: Epochs: 'longest' \(allowed: short, default, long"):
        load_study("length", tmp_path)


def test_a_rate_that_the_sweep_lacks_is_refused_before_anything_runs() -> None:
    study = study_spec({"default": {}}, learning_rates=[5e-4, 0.7])
    with pytest.raises(SpecError, match=r"learning_rates: 0\.7 for variant 'default' \(allowed: 0"):
        study_run._check_rates("s", study)


def test_a_study_cleans_with_the_rates_that_it_names_alone() -> None:
    study = study_spec({"default": {}}, learning_rates=[5e-4])
    profiles = study_profiles(study)
    runs = asked_runs(study, profiles, "default", "clean")
    assert {run.schedule.learning_rate for run in runs} == {5e-4}
    every = asked_runs(study_spec({"default": {}}), profiles, "default", "clean")
    assert len({run.schedule.learning_rate for run in every}) > 1


def test_findings_tell_it_where_a_study_of_all_cells_gives_the_rate(tmp_path: Path) -> None:
    write_length_study(tmp_path)
    assert "Epochs" not in findings_block("mini", tmp_path)

    # One whose MMCL models are cleaned, so that there is a rate.
    write_study_spec(tmp_path, "again", {"default": {}})
    profile = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": SEEDS})
    for run in [*pretrain_runs(profile), *clean_runs(profile)]:
        run = run.model_copy(update={"variant": "default"})
        left = 0.01 if run.pretrain_objective == "mmcl" else 0.6
        after = [(0.38, left)] if run.stage == "clean" else []
        write_run(tmp_path / "again", run, [(0.4, 0.9), *after])
    archive = ((record, rows) for _, record, rows in read_results(tmp_path / "again"))
    write_archive(tmp_path / "results/studies/again.jsonl.gz", archive)

    block = " ".join(findings_block("mini", tmp_path).split())
    assert "| 16 | long | MMCL + SSL | 90.0 [90.0, 90.0] | 91.0" in block
    assert "At 16, MMCL + SSL models have +86." in block
    assert "At equal accuracy before cleaning (CC3M, 100K)" in block
    assert "So it is not only that models of MMCL + SSL are better ones" in block
    believed = block.partition("## What to believe")[2].partition("## ")[0]
    assert "Beside MMCL models of the same accuracy before cleaning (CC3M, 100K; " in believed
    assert "points more ASR: it is not only that models of MMCL + SSL are better ones" in believed
    changed = (
        "- Epochs (CC3M, 100K): against the lowest, the ASR left of MMCL + SSL models changes by"
    )
    (at_8, at_16) = believed.partition(changed)[2].partition(" - ")[0].split(", +")
    assert at_8.startswith(" +40.") and at_8.endswith(" points at 8")
    assert at_16.startswith("80.") and at_16.rstrip().endswith(" points at 16.")
