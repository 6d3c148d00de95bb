"""Tables, effects, responses and hypotheses of studies, made by hand and of the archives."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report.claims import load_claims
from repro.report.measures import (
    CleanedModel,
    Context,
    Evaluations,
    asr_frontier,
)
from repro.report.measures import measured as measured_of
from repro.report.points import COLUMNS
from repro.report.statements import JudgedHypothesis, judged_hypotheses
from repro.report.studies import StudyResults, read_study_results, studied, whole_seeds
from repro.report.study_tables import EffectRow, StudyTable, measured, responses
from repro.study.archive import read_archive, write_archive
from repro.study.spec import Study, archive_of, load_study
from tests.support.ledger import study_spec

ROOT = Path(__file__).parents[2]
CAP, RATE = 0.05, 1e-3
Made = dict[tuple[str, str], dict[str, Any]]


def evaluation(**fields: Any) -> dict[str, Any]:
    """One row of the table of evaluations."""
    usual = {
        "dataset": "cc3m",
        "clean_size": "100k",
        "loss": "mmcl_ssl",
        "model": "",
        "study": "study",
        "poisoned": True,
        "handed_on": True,
        "untouched": True,
        "diverged": False,
        "machine": "cpu",
        "learning_rate": 1.0,
        "epoch": 1.0,
        "index": 1,
    }
    return {**usual, **fields}


def frame_of(models: Made) -> pd.DataFrame:
    """`start` and the ends of runs `after`, by learning rate, are (accuracy, ASR) by seed."""
    rows = []
    for (variant, objective), model in models.items():
        for seed, (accuracy, asr) in enumerate(model["start"]):
            names = {"variant": variant, "pretrain_objective": objective, "seed": seed}
            start = {**names, "accuracy": accuracy, "asr": asr, "step": 0}
            trained = {**start, "stage": "pretrain", "run": "p", "clean_size": None}
            rows.append(evaluation(**trained))
            for rate, ends in model.get("after", {}).items():
                run = {
                    "stage": "clean",
                    "learning_rate": rate,
                    "run": f"{rate}",
                    "model": f"{variant}-{objective}-{seed}",
                }
                accuracy_after, asr_after = ends[seed]
                end = {**names, "accuracy": accuracy_after, "asr": asr_after, "step": 10}
                rows.append(evaluation(**start, **run))
                rows.append(evaluation(**end, **run))
    return pd.DataFrame(rows)


def table_of(models: Made, study: Study | None = None) -> StudyTable:
    if study is None:
        names = dict.fromkeys(variant for variant, _ in models)
        study = study_spec({name: {} for name in names}, reference="default")
    return table_from(frame_of(models), study)


CONTEXT_OF_TABLES = Context(CAP, RATE, hull_cap=CAP, kept_share=1.0, weak_start=0.9)


def table_from(frame: pd.DataFrame, study: Study) -> StudyTable:
    return StudyTable("study", study, Evaluations(frame, CONTEXT_OF_TABLES), 0.95)


def row_of(table: StudyTable, variant: str, objective: str = "mmcl") -> EffectRow:
    rows = {(row.variant, row.pretrain_objective): row for row in table.entry().rows}
    return rows[variant, objective]


CLEANED = {
    "start": [(0.40, 0.9), (0.42, 0.9), (0.44, 0.9)],
    "after": {RATE: [(0.38, 0.03), (0.39, 0.03), (0.40, 0.03)]},
}
"""A model that every seed cleans."""


def test_intervals_stay_within_what_is_possible() -> None:
    found = measured([0.0, 0.01, 0.2], 0.95)
    assert found.ci is not None
    assert found.ci[0] == 0
    assert found.mean == pytest.approx(0.07)
    assert measured([0.1, None, 0.3], 0.95).ci is None


def test_a_table_has_outcomes_by_seed() -> None:
    worse = {
        "start": [(0.38, 0.9), (0.40, 0.9), (0.42, 0.9)],
        "after": {RATE: [(0.2, 0.05)] * 3},
    }
    table = table_of({("worse", "mmcl"): worse, ("default", "mmcl"): CLEANED})
    assert [row.variant for row in table.entry().rows] == ["default", "worse"]

    row = row_of(table, "worse")
    assert row.seeds == [0, 1, 2]
    assert row.tried == 3
    assert row.not_cleaned == 0

    values = {name: measure.values for name, measure in row.measures.items()}
    assert values["accuracy"] == pytest.approx([0.38, 0.40, 0.42])
    assert values["lost"][0] == pytest.approx(1 - 0.2 / 0.38)
    assert values["asr_left"] == [0.05] * 3


def test_a_seed_that_nothing_cleans_counts_with_its_loss_at_the_highest_rate() -> None:
    """There is no mean over the seeds that were cleaned, and its effect has no interval."""
    after = {
        RATE: [(0.3, 0.2)] * 3,
        4 * RATE: [(0.25, 0.06), (0.25, 0.04), (0.25, 0.04)],
    }
    model = {"start": [(0.5, 0.9)] * 3, "after": after}
    table = table_of({("default", "mmcl"): CLEANED, ("stubborn", "mmcl"): model})

    row = row_of(table, "stubborn")

    assert row.tried == 3
    assert row.not_cleaned == 1
    assert row.measures["cleaned_accuracy"].values == [None, 0.25, 0.25]
    assert row.measures["cleaned_accuracy"].mean is None
    assert row.measures["lost"].values == pytest.approx([0.5] * 3)


def test_a_run_that_diverged_has_no_end() -> None:
    model = {
        "start": [(0.5, 0.9)] * 3,
        "after": {
            RATE: [(0.4, 0.2)] * 3,
            2 * RATE: [(0.1, 0.5)] * 3,
        },
    }
    frame = frame_of({("default", "mmcl"): model})
    frame.loc[frame.learning_rate == 2 * RATE, "diverged"] = True
    table = table_from(frame, study_spec({"default": {}}))

    (row,) = table.entry().rows

    assert row.measures["lost"].values == pytest.approx([0.2] * 3)


def test_a_model_of_another_study_starts_from_a_run_that_takes_it_as_it_is() -> None:
    frame = frame_of({("default", "mmcl"): CLEANED, ("shrunk", "mmcl"): CLEANED})
    frame = frame[frame.stage == "clean"].assign(model="hash")
    is_shrunk = frame.variant == "shrunk"
    frame.loc[is_shrunk & (frame.step == 0), "accuracy"] = 0.1
    frame["untouched"] = ~is_shrunk
    study = study_spec({"default": {}, "shrunk": {}})

    default, shrunk = table_from(frame[frame.seed == 0], study).entry().rows

    assert default.variant == "default"
    assert shrunk.variant == "shrunk"
    assert default.measures["accuracy"].values == [pytest.approx(0.4)]
    assert shrunk.measures["accuracy"].values == [pytest.approx(0.4)]


def all_of(results: Sequence[StudyResults]) -> Evaluations:
    """The evaluations of several archives, by the measures of the profile `mini`."""
    frames = [of.frame for of in results]
    return Evaluations(pd.concat(frames, ignore_index=True), CONTEXT)


def test_a_study_that_confirms_is_shown_when_its_last_run_is_there() -> None:
    results = [of for of in read_study_results("mini") if of.name.startswith("confirmation")]
    first = results[0]
    run, *others = first.runs
    due = replace(first, runs=tuple(others))

    def seeds_of(study: StudyResults) -> set[int]:
        return whole_seeds([study])[study.name]

    assert seeds_of(first) - seeds_of(due) == {run.record.spec.seed}

    record = run.record.model_copy(update={"status": "failed"})
    failed = replace(run, record=record)
    with_failed = replace(first, runs=(failed, *others))
    assert with_failed.seeds_due == due.seeds_due

    found = studied(results, all_of(results), 0.95)
    shown = {of.name for of in found.studies}
    assert shown == {of.name for of in results if not of.seeds_due}


def test_hypotheses_are_told_when_the_last_run_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of("mechanism")
    *others, last = read_archive(archive)
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(tmp_path)
    write_archive(archive, others)
    assert read_study_results("mini") == []
    write_archive(archive, [*others, last])
    assert [of.name for of in read_study_results("mini")] == ["mechanism"]


def axis_study() -> Study:
    numbers = {"short": 2, "default": 8, "long": 16}
    axes = [{"name": "Epochs", "numbers": numbers}]
    return study_spec({name: {} for name in numbers}, reference="default", axes=axes)


def axis_models() -> Made:
    """MMCL + SSL models are more accurate; the reference's is as good as the long-trained MMCL's."""
    accuracy = {"short": 0.2, "default": 0.3, "long": 0.4}
    left = {"mmcl": (0.0, 0.02, 0.04), "mmcl_ssl": (0.1, 0.5, 0.9)}
    better = {"mmcl": 0.0, "mmcl_ssl": 0.1}
    by_seed = (0.0, 0.01, 0.02)
    models: Made = {}
    for objective, of_objective in left.items():
        for (variant, start), asr in zip(accuracy.items(), of_objective, strict=True):
            accurate = start + better[objective]
            models[variant, objective] = {
                "start": [(accurate + shift, 0.9) for shift in by_seed],
                "after": {RATE: [(0.1, asr + shift) for shift in by_seed]},
            }
    return models


def test_a_response_has_points_by_rising_number() -> None:
    table = table_of(axis_models(), axis_study())
    (entry,) = responses(table)
    assert entry.axis == "Epochs"
    assert entry.clean_size == "100k"
    assert [point.number for point in entry.curves["mmcl"]] == [2, 8, 16]
    assert entry.curves["mmcl_ssl"][1].measures["asr_left"].mean == pytest.approx(0.51)


def test_a_study_that_does_not_clean_responds_before_cleaning() -> None:
    models = {key: {"start": model["start"]} for key, model in axis_models().items()}
    changes = {"stages": ["pretrain"], "clean_sizes": []}
    study = axis_study().model_copy(update=changes)
    (entry,) = responses(table_of(models, study))
    assert entry.clean_size is None
    (first, *_) = entry.curves["mmcl"]
    assert {*first.measures} == {"accuracy", "asr"}


CONTEXT = Context.of(load_claims(), load_profile("mini"))


def of_mechanism(**values: Any) -> dict[str, Any]:
    names = {"study": "mechanism", "dataset": "cc6m", "clean_size": "200k", "loss": "mmcl_ssl"}
    state = {
        "stage": "clean",
        "poisoned": True,
        "diverged": False,
        "handed_on": False,
        "untouched": True,
    }
    start = {"step": 0, "epoch": 0.0, "index": 0, "accuracy": 0.4, "num_correct": 4}
    others = dict.fromkeys(COLUMNS)
    others["learning_rate"] = CONTEXT.rate
    others |= dict.fromkeys(("validation_accuracy", "validation_asr", "test_asr"), math.nan)
    return {**others, **names, **state, **start, **values}


def study_frame(left: dict[str, float], seeds: list[int]) -> pd.DataFrame:
    """Start and end of a run for each model of `<variant>/<objective>`, with the ASR left."""
    rows = []
    for label, asr in left.items():
        variant, objective = label.split("/")
        for seed in seeds:
            model = {"variant": variant, "pretrain_objective": objective, "seed": seed}
            run = {**model, "run": f"{label}/{seed}"}
            noise = 0.01 * ((seed * 7) % 5 - 2) if asr > 0.5 else 0.0
            end = {"step": 9, "epoch": 1.0, "index": 1, "asr": asr + noise}
            rows.append(of_mechanism(**run, asr=0.95))
            rows.append(of_mechanism(**run, **end))
    return pd.DataFrame(rows)


def judged_in(name: str, frame: pd.DataFrame, due: Collection[int] = ()) -> list[JudgedHypothesis]:
    """The hypotheses of a study on made-up models."""
    values = measured_of(Evaluations(frame, CONTEXT))
    return judged_hypotheses(name, load_study(name), values, CONTEXT.weak_start, due)


LEFT = {
    "cleanclip/mmcl": 0.03,
    "cleanclip/mmcl_ssl": 0.6,
    "crop_view/mmcl_ssl": 0.2,
    "word_view/mmcl_ssl": 0.59,
    "reset_temperature/mmcl_ssl": 0.6,
    "fresh_head/mmcl_ssl": 0.7,
    "parts/image_ssl": 0.6,
    "parts/text_ssl": 0.04,
    "parts/two_views": 0.02,
    "parts/ssl_unused": 0.03,
}


def judged_of(seeds: list[int]) -> list[JudgedHypothesis]:
    """The hypotheses of the study `mechanism` on so many seeds of the same models."""
    return judged_in("mechanism", study_frame(LEFT, seeds))


def test_a_hypothesis_is_supported_or_refuted_by_the_mean_over_seeds() -> None:
    judged = judged_of([25, 26, 27, 28, 29])
    verdicts = {
        row.hypothesis.says.split(" cleans")[0].split(" make")[0]: row.verdict for row in judged
    }
    assert verdicts == {
        "another image view": "supported",
        "another text view": "supported, negligible",
        "a temperature reset": "refuted",
        "a new projection head": "refuted",
        "the image SSL term alone": "supported",
        "the text SSL term alone": "supported, negligible",
        "the augmentations alone": "refuted",
        "encoding a second view without gradient": "refuted",
    }
    first = judged[0]
    assert first.sum is not None
    assert first.sum.mean == pytest.approx(-0.4, abs=0.02)
    assert first.p is not None
    assert first.p < 0.001


def test_no_verdict_until_all_seeds_are_there() -> None:
    judged = judged_of([25, 26, 27, 28])
    assert {row.verdict for row in judged} == {"incomplete"}
    assert {row.sum.seeds for row in judged if row.sum} == {4}


def test_no_verdict_while_a_seed_lacks_runs() -> None:
    """With one of five rates each model has a measure of what cleans it, at that rate."""
    study = load_study("scenes")
    seeds = study.variants["scenes"].seeds
    frame = study_frame({"scenes/mmcl": 0.9, "scenes/mmcl_ssl": 0.9}, seeds)
    place = {"dataset": "cc6m", "clean_size": "200k", "study": "scenes"}
    whole = judged_in("scenes", frame.assign(**place))
    assert "incomplete" not in {row.verdict for row in whole if row.sum}
    partly = judged_in("scenes", frame.assign(**place), due={seeds[-1]})
    assert {row.verdict for row in partly} == {"incomplete"}


@pytest.mark.parametrize(("asr", "weak"), [(0.89, True), (0.91, False)])
def test_models_of_a_weak_backdoor_are_marked(asr: float, weak: bool) -> None:
    study = load_study("scenes")
    seeds = study.variants["scenes"].seeds
    frame = study_frame({"scenes/mmcl": 0.01, "scenes/mmcl_ssl": 0.5}, seeds)
    weaker = (frame.step == 0) & (frame.pretrain_objective == "mmcl")
    place = {"dataset": "cc6m", "clean_size": "200k", "study": "scenes"}
    frame = frame.assign(asr=frame.asr.mask(weaker, asr), **place)
    judged = judged_in("scenes", frame)
    assert {row.weak for row in judged} == {weak}


def test_a_bound_counts_as_a_value_and_is_shown_as_one() -> None:
    """No rate cleans the MMCL + SSL models."""
    study = load_study("scenes")
    left = {"scenes/mmcl": 0.01, "scenes/mmcl_ssl": 0.9}
    frame = study_frame(left, study.variants["scenes"].seeds)
    place = {"dataset": "cc6m", "clean_size": "200k", "study": "scenes"}

    rates = judged_in("scenes", frame.assign(**place))[1]

    assert rates.hypothesis.measure == "rate_doublings"
    assert rates.sum is not None
    assert rates.sum.at_least


def test_the_frontier_is_chosen_on_validation_and_read_on_test_images() -> None:
    states = [
        {"validation_accuracy": 0.40, "validation_asr": 0.9, "test_asr": 0.8},
        {"validation_accuracy": 0.39, "validation_asr": 0.5, "test_asr": 0.6},
        {"validation_accuracy": 0.36, "validation_asr": 0.1, "test_asr": 0.2},
        {"validation_accuracy": 0.30, "validation_asr": 0.0, "test_asr": 0.0},
    ]
    rows = [of_mechanism(step=step, **state) for step, state in enumerate(states)]
    frame = pd.DataFrame(rows)

    model = CleanedModel(frame.iloc[0], frame, CONTEXT)

    # Up to a loss of 2.5% the start, to 10% the second state, to 20% the third.
    expected = (0.025 * 0.8 + 0.075 * 0.6 + 0.1 * 0.2) / 0.2
    assert asr_frontier(model).value == pytest.approx(expected, abs=0.003)
