"""Tables, effects and responses of studies, on evaluations made by hand and on the archives."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from repro.profile import load_profile
from repro.report.judging.claims import load_claims
from repro.report.measures import Evaluations
from repro.report.numbers.evidence import Settings
from repro.report.pages.findings import stale_findings
from repro.report.studies.axes import equal_starts, responses
from repro.report.studies.estimates import Effect, effect, measured, set_q_values
from repro.report.studies.outcomes import outcomes
from repro.report.studies.results import Studied, read_study_results, studied
from repro.report.studies.tables import EffectRow, StudyTable
from repro.report.verdicts import verdicts
from repro.study.spec import Study
from tests.support.ledger import study_spec

ROOT = Path(__file__).parents[2]
CAP, RATE = 0.05, 1e-3
Models = dict[tuple[str, str], dict[str, Any]]


def evaluation(**fields: Any) -> dict[str, Any]:
    """One row of the table of evaluations."""
    return {
        "dataset": "cc3m",
        "clean_size": "100k",
        "loss": "mmcl_ssl",
        "poisoned": True,
        "handed_on": True,
        "untouched": True,
        "diverged": False,
        "machine": "cpu",
        "learning_rate": 1.0,
        "model": "",
        "epoch": 1.0,
        "index": 1,
        **fields,
    }


def frame_of(models: Models) -> pd.DataFrame:
    """Evaluations of models by variant and objective.

    `start` and the ends of the runs `after`, by learning rate, are (accuracy, ASR) seed by seed.
    """
    rows = []
    for (variant, objective), model in models.items():
        for seed, (accuracy, asr) in enumerate(model["start"]):
            names = {"variant": variant, "pretrain_objective": objective, "seed": seed}
            start = {**names, "accuracy": accuracy, "asr": asr, "step": 0}
            rows.append(evaluation(**{**start, "clean_size": None}, stage="pretrain", run="p"))
            for rate, ends in model.get("after", {}).items():
                run = {"stage": "clean", "learning_rate": rate, "run": f"{rate}"}
                run["model"] = f"{variant}-{objective}-{seed}"
                end = dict(zip(("accuracy", "asr"), ends[seed], strict=True))
                rows += [evaluation(**start, **run), evaluation(**names, **run, **end, step=10)]
    return pd.DataFrame(rows)


def table_of(models: Models, study: Study | None = None) -> StudyTable:
    names = dict.fromkeys(variant for variant, _ in models)
    spec = study or study_spec({name: {} for name in names}, reference="default")
    return StudyTable(spec, outcomes(frame_of(models), CAP, RATE), 0.95)


def row_of(table: StudyTable, variant: str, objective: str = "mmcl") -> EffectRow:
    (row,) = (
        row
        for row in table.entry("study").rows
        if (row.variant, row.pretrain_objective) == (variant, objective)
    )
    return row


CLEANED = {
    "start": [(0.40, 0.9), (0.42, 0.9), (0.44, 0.9)],
    "after": {RATE: [(0.38, 0.03), (0.39, 0.03), (0.40, 0.03)]},
}
"""A model that every seed cleans."""


def effect_of(differences: list[float]) -> Effect | None:
    return effect(pd.Series(differences), 0.95)


def test_an_effect_is_the_paired_difference_with_students_interval() -> None:
    differences = [0.02, -0.01, 0.04, 0.03]
    found = effect_of(differences)
    expected = stats.ttest_1samp(differences, 0)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(0.02), 4)
    assert found.ci == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.undecided
    assert effect_of([0.1, 0.2]) is None


def test_models_that_two_variants_share_test_nothing() -> None:
    found = effect_of([0.0, 0.0, 0.0])
    assert found is not None and found.p is None and found.ci == (0, 0)


def test_q_values_are_taken_over_distinct_effects() -> None:
    """The same effect under two names counts once, as do models of two variants of one study."""
    one, two = effect_of([0.10, 0.11, 0.12]), effect_of([0.1, -0.1, 0.3])
    same, nought = effect_of([0.10, 0.11, 0.12]), effect_of([0.0, 0.0, 0.0])
    assert one and two and same and nought and one.p is not None and two.p is not None
    family = set_q_values([one, nought, same, two], 0.95)
    assert (family.tested, family.intervals_beyond_zero, family.decided) == (2, 1, 1)
    assert family.by_chance == pytest.approx(0.1)
    assert one.q == same.q == pytest.approx(2 * one.p)
    assert (two.q, nought.q) == (pytest.approx(two.p), None)


def test_intervals_stay_within_what_is_possible() -> None:
    found = measured(pd.Series([0.0, 0.01, 0.2]), 0.95)
    assert found.ci is not None and found.ci[0] == 0 and found.mean == pytest.approx(0.07)
    assert measured(pd.Series([0.1, None, 0.3]), 0.95).ci is None


def test_a_table_has_outcomes_and_effects_by_seed() -> None:
    start = [(0.38, 0.9), (0.40, 0.9), (0.42, 0.9)]
    worse = {"start": start, "after": {RATE: [(0.2, 0.05)] * 3}}
    table = table_of({("worse", "mmcl"): worse, ("default", "mmcl"): CLEANED})
    assert [row.variant for row in table.entry("study").rows] == ["default", "worse"]
    row = row_of(table, "worse")
    assert row.seeds == [0, 1, 2] and (row.tried, row.not_cleaned) == (3, 0)
    assert row.measures["accuracy"].values == pytest.approx([0.38, 0.40, 0.42])
    assert row.effects["accuracy"].value == pytest.approx(-0.02)
    assert row.effects["cleaned_accuracy"].value == pytest.approx(-0.19)
    assert row.measures["lost"].values[0] == pytest.approx(1 - 0.2 / 0.38)
    assert row.measures["asr_left"].values == [0.05] * 3
    assert row_of(table, "default").effects == {}


def test_a_confirmatory_study_has_measures_and_no_effects() -> None:
    models = {("default", "mmcl"): CLEANED, ("other", "mmcl"): CLEANED}
    spec = study_spec({"default": {}, "other": {}})
    found = outcomes(frame_of(models), CAP, RATE)
    entry = StudyTable(spec, found, 0.95, effects=False).entry("confirmation")
    assert [row.effects for row in entry.rows] == [{}, {}]
    assert all(row.measures["lost"].ci for row in entry.rows)


def test_a_seed_that_nothing_cleans_counts_with_its_loss_at_the_highest_rate() -> None:
    """There is no mean over the seeds that were cleaned, and its effect has no interval."""
    after = {RATE: [(0.3, 0.2)] * 3, 4 * RATE: [(0.25, 0.06), (0.25, 0.04), (0.25, 0.04)]}
    model = {"start": [(0.5, 0.9)] * 3, "after": after}
    table = table_of({("default", "mmcl"): CLEANED, ("stubborn", "mmcl"): model})
    row = row_of(table, "stubborn")
    assert (row.tried, row.not_cleaned) == (3, 1)
    assert row.measures["cleaned_accuracy"].values == [None, 0.25, 0.25]
    assert row.measures["cleaned_accuracy"].mean is None
    assert row.measures["lost"].values == pytest.approx([0.5] * 3)
    assert "cleaned_accuracy" not in row.effects and "asr_left" in row.effects


def test_a_run_that_diverged_has_no_end() -> None:
    after = {RATE: [(0.4, 0.2)] * 3, 2 * RATE: [(0.1, 0.5)] * 3}
    frame = frame_of({("default", "mmcl"): {"start": [(0.5, 0.9)] * 3, "after": after}})
    frame.loc[frame.learning_rate == 2 * RATE, "diverged"] = True
    assert outcomes(frame, CAP, RATE).lost.tolist() == pytest.approx([0.2] * 3)


def test_a_model_of_another_study_starts_from_a_run_that_takes_it_as_it_is() -> None:
    frame = frame_of({("default", "mmcl"): CLEANED, ("shrunk", "mmcl"): CLEANED})
    frame = frame[frame.stage == "clean"].assign(model="hash")
    shrunk = frame.variant == "shrunk"
    frame.loc[shrunk & (frame.step == 0), "accuracy"] = 0.1
    frame["untouched"] = ~shrunk
    found = outcomes(frame[frame.seed == 0], CAP, RATE).set_index("variant")
    assert found.accuracy["shrunk"] == found.accuracy["default"] == pytest.approx(0.4)


def test_interactions_are_differences_of_differences() -> None:
    """The variant costs MMCL models 0.1 and MMCL + SSL models 0.15, on every seed alike."""
    kept = {
        ("default", "mmcl"): (0.5, 0.5, 0.5),
        ("worse", "mmcl"): (0.4, 0.3, 0.2),
        ("default", "mmcl_ssl"): (0.6, 0.7, 0.8),
        ("worse", "mmcl_ssl"): (0.45, 0.45, 0.45),
    }
    models = {
        key: {"start": [(0.7, 0.9)] * 3, "after": {RATE: [(best, 0.0) for best in of_key]}}
        for key, of_key in kept.items()
    }
    (row,) = table_of(models).entry("study").interactions
    assert (row["variant"], row["clean_size"], row["effect"].n) == ("worse", "100k", 3)
    assert row["effect"].value == pytest.approx(-0.05)
    models.pop(("default", "mmcl"))
    assert table_of(models).entry("study").interactions == []


def test_more_cleaning_pairs_are_compared_within_a_model() -> None:
    small = frame_of({("default", "mmcl"): CLEANED})
    large = small[small.stage == "clean"].assign(clean_size="200k")
    large.loc[large.step > 0, "accuracy"] += [0.01, 0.02, 0.03]
    frame = pd.concat([small, large], ignore_index=True)
    table = StudyTable(study_spec({"default": {}}), outcomes(frame, CAP, RATE), 0.95)
    (row,) = table.entry("study").sizes
    assert row["effect"].value == pytest.approx(0.02) and row["against_reference"] is None


def axis_study() -> Study:
    numbers = {"short": 2, "default": 8, "long": 16}
    return study_spec(
        {name: {} for name in numbers},
        reference="default",
        axes=[{"name": "Epochs", "numbers": numbers}],
    )


def axis_models() -> Models:
    """MMCL + SSL models are more accurate; the reference's is as good as the long-trained MMCL's."""
    accuracy = {"short": 0.2, "default": 0.3, "long": 0.4}
    left = {"mmcl": (0.0, 0.02, 0.04), "mmcl_ssl": (0.1, 0.5, 0.9)}
    models: Models = {}
    for objective, of_objective in left.items():
        for (variant, start), asr in zip(accuracy.items(), of_objective, strict=True):
            accurate = start + (0.1 if objective == "mmcl_ssl" else 0.0)
            models[variant, objective] = {
                "start": [(accurate, 0.9), (accurate + 0.01, 0.9), (accurate + 0.02, 0.9)],
                "after": {RATE: [(0.1, asr), (0.1, asr + 0.01), (0.1, asr + 0.02)]},
            }
    return models


def test_a_response_has_points_by_rising_number_with_changes_and_gaps() -> None:
    table = table_of(axis_models(), axis_study())
    (entry,) = responses("length", table, RATE)
    assert (entry["axis"], entry["learning_rate"], entry["tested"]) == ("Epochs", RATE, "asr_left")
    mmcl, mmcl_ssl = (curve["points"] for curve in entry["curves"])
    assert [point["number"] for point in mmcl] == [2, 8, 16]
    assert mmcl_ssl[1]["measures"]["asr_left"].mean == pytest.approx(0.51)
    assert [change["number"] for change in entry["changes"]["mmcl_ssl"]] == [8, 16]
    assert entry["changes"]["mmcl_ssl"][1]["effect"].value == pytest.approx(0.8)
    assert [(gap["number"], gap["effect"].value) for gap in entry["gaps"]] == [
        (2, pytest.approx(0.1)),
        (16, pytest.approx(0.86)),
    ]


def test_a_study_that_does_not_clean_responds_before_cleaning() -> None:
    models = {key: {"start": model["start"]} for key, model in axis_models().items()}
    study = axis_study().model_copy(update={"stages": ["pretrain"], "clean_sizes": []})
    (entry,) = responses("length", table_of(models, study), RATE)
    assert (entry["clean_size"], entry["learning_rate"], entry["tested"]) == (None, None, "asr")


def test_models_of_equal_accuracy_are_matched_seed_by_seed() -> None:
    (entry,) = equal_starts("length", table_of(axis_models(), axis_study()), RATE)
    assert {seed["mmcl"]["variant"] for seed in entry["seeds"]} == {"long"}
    assert {seed["mmcl_ssl"]["variant"] for seed in entry["seeds"]} == {"default"}
    assert entry["accuracy"].value == pytest.approx(0, abs=1e-12)
    assert entry["asr_left"].value == pytest.approx(0.46)
    assert equal_starts("length", table_of(axis_models(), axis_study()), None) == []


@cache
def archives() -> Studied:
    """What the archives in git say of the profile `mini`."""
    settings = Settings.of(load_profile("mini", ROOT / "specs"))
    found = studied(read_study_results("mini", ROOT), settings, 5e-4, ROOT)
    assert found.effects_family is not None
    return found


def test_the_archives_give_the_effects_that_docs_tell() -> None:
    """Points, to the digit that is printed."""
    found = archives()
    control = next(study for study in found.studies if study.name == "control")
    prices = [
        (100 * price["poisoned"].mean, 100 * price["unpoisoned"].mean) for price in control.prices
    ]
    assert [tuple(round(x, 1) for x in pair) for pair in prices] == [(1.9, 2.4), (6.7, 2.1)]

    (matched,) = found.equal_starts
    assert [round(100 * x, 1) for x in (matched["asr_left"].value, *matched["asr_left"].ci)] == [
        49.5,
        11.7,
        87.4,
    ]
    dose = next(entry for entry in found.responses if entry["study"] == "dose")
    (changes,) = dose["changes"].values()
    assert [round(100 * change["effect"].value, 1) for change in changes] == [
        22.4,
        47.6,
        51.1,
        39.9,
    ]


def test_tables_measure_as_verdicts_do() -> None:
    """The seeds' table and the exploratory verdicts have the same values of every seed."""
    results = read_study_results("mini", ROOT)
    frames = [study.frame for study in results]
    arms = Evaluations(pd.concat(frames, ignore_index=True), CAP)
    judged = verdicts(arms, load_claims(ROOT / "specs/claims.yaml"), "mini")
    measures = {measure.measure: measure for measure in judged.exploratory}
    seeds = next(study for study in archives().studies if study.name == "seeds")
    for name, verdict in (("lost", "lost_at_cap"), ("asr_left", "asr_left_at_rate")):
        for cell in measures[verdict].cells:
            for row in seeds.rows:
                if (row.dataset, row.clean_size) == (cell.dataset, cell.clean_size):
                    other = cell.mmcl if row.pretrain_objective == "mmcl" else cell.mmcl_ssl
                    assert row.measures[name].values == list(other.by_seed.values())


def test_effects_of_unpoisoned_models_say_nothing_of_the_attack() -> None:
    control = next(study for study in archives().studies if study.name == "control")
    rows = [row for row in control.rows if row.variant == "unpoisoned"]
    assert [set(row.effects) for row in rows] == [{"accuracy", "cleaned_accuracy"}] * 2


def test_replicates_differ_by_rounding_only() -> None:
    """ASR left of MMCL + SSL: 2 to 5 points between replicates, 14 between seeds."""
    by_measure = {(of["pretrain_objective"], of["measure"]): of for of in archives().replicates}
    left = by_measure["mmcl_ssl", "asr_left"]
    assert 0.02 < left["sd"] < 0.05 and left["sd_seeds"] > 0.1
    assert [item["seed"] for item in left["seeds"]] == [10, 11, 12]
    # The earlier archive equals the present one bit by bit on seed 10, which is one draw.
    assert [len(item["values"]) for item in left["seeds"]] == [2, 3, 3]


def test_the_tables_of_the_pages_are_those_of_the_archives(tmp_path: Path) -> None:
    """An edited digit is named with its file and line."""
    assert stale_findings("mini", ROOT) == []
    assert stale_findings("midi", ROOT) == []
    for name in ("specs", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    page = tmp_path / "docs/mini.md"
    page.write_text(page.read_text().replace("| 42.9 |", "| 43.9 |"))
    (line,) = stale_findings("mini", tmp_path)
    assert line.startswith("docs/mini.md:") and "43.9" in line
    page.unlink()
    assert stale_findings("mini", tmp_path) == []
