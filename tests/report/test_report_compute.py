"""The report's forecast of its own compute: rates from the first run of each kind, applied to the
counted work of the others.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro.plan.work import work_of
from repro.profile import clean_runs, pretrain_runs
from repro.report.numbers.compute import forecast
from repro.report.numbers.evidence import Evidence, read_evidence
from tests.support.ledger import write_run, write_specs

PAIR_VIEW, EVALUATION = 0.001, 0.5
"""Seconds of the two in the records of the test."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The runs of two models, with two ranks of a thread each, at exactly these rates; `cc3m` ran
    first.
    """
    root = tmp_path_factory.mktemp("compute")
    profile = write_specs(root)
    for spec in [*pretrain_runs(profile, objective="mmcl"), *clean_runs(profile, objective="mmcl")]:
        write_run(root, spec, [(0.5, 0.5)])
    study = read_evidence(profile, root)
    works = {(work.spec.stage, work.spec.cell, work.spec.run_id): work for work in work_of(profile)}
    runs = []
    for run in study.runs:
        work = works[run.record.spec.stage, run.record.spec.cell, run.record.spec.run_id]
        evaluating = work.evaluations * EVALUATION
        times = {
            "seconds": (work.pair_views * PAIR_VIEW + evaluating) / 2,
            "evaluate_seconds": evaluating / 2,
            "ranks": 2,
            "started": "2026-01-01" if work.spec.dataset == "cc3m" else "2026-01-02",
        }
        runs.append(replace(run, record=run.record.model_copy(update=times)))
    return replace(study, runs=tuple(runs))


def test_runs_at_one_speed_take_what_was_forecast(study: Evidence) -> None:
    result = forecast(study)
    assert [(row["stage"], row["cell"]) for row in result["rows"]] == [
        ("pretrain", "cc6m-mmcl"),
        ("pretrain", None),
        ("clean", "cc3m-mmcl"),
        ("clean", "cc6m-mmcl"),
        ("clean", None),
    ]
    assert [row["ratio"] for row in result["rows"]] == pytest.approx([1.0] * 5)
    assert result["rows"][0]["seconds"] == pytest.approx(16 * 161 * 64 * PAIR_VIEW + 5 * EVALUATION)


def test_the_first_run_of_each_stage_and_loss_gives_the_rate_and_is_not_compared(
    study: Evidence,
) -> None:
    result = forecast(study)
    assert len(result["calibrated_on"]) == 4  # pre-training, and cleaning with MMCL, SSL and both
    assert all("cc3m-mmcl" in folder for folder in result["calibrated_on"])
    compared = sum(row["runs"] for row in result["rows"] if row["cell"] is None)
    assert compared == len(study.runs) - 4


def test_a_run_that_took_twice_as_long_shows_in_its_row(study: Evidence) -> None:
    slow = tuple(
        replace(run, record=run.record.model_copy(update={"seconds": 2 * run.record.seconds}))
        if run.folder.startswith("results/mini/pretrain/cc6m")
        else run
        for run in study.runs
    )
    rows = {
        (row["stage"], row["cell"]): row["ratio"]
        for row in forecast(replace(study, runs=slow))["rows"]
    }
    assert rows["pretrain", "cc6m-mmcl"] == pytest.approx(0.5)
    assert rows["clean", None] == pytest.approx(1.0)


def test_without_runs_to_compare_there_are_no_rows(study: Evidence) -> None:
    assert forecast(replace(study, runs=study.runs[:1]))["rows"] == []
    assert forecast(replace(study, runs=())) == {"calibrated_on": [], "rows": []}
