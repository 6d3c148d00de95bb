"""The report's forecast of its own compute: rates from the first run of each kind, applied to the
counted work of the others.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from repro.plan.work import work_of
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.numbers.compute import archived_compute, forecast
from repro.report.numbers.evidence import Evidence, read_evidence
from repro.report.vocabularies import describe
from repro.runs.published import read_results
from repro.study.archive import write_archive
from tests.support.ledger import build_at, write_run, write_specs, write_study_spec

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

    # Whole batches of cc6m in each epoch, and evaluations at the start and every few epochs.
    profile = load_profile("mini", study.root / "specs")
    schedule = pretrain_runs(profile, "cc6m", "mmcl")[0].schedule
    batch = schedule.global_batch_size
    pairs = schedule.epochs * (profile.data.num_pairs["cc6m"] // batch) * batch
    evaluations = 1 + math.ceil(schedule.epochs / profile.pretrain.evaluate_every_epochs)
    expected = pairs * PAIR_VIEW + evaluations * EVALUATION
    assert result["rows"][0]["seconds"] == pytest.approx(expected)


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


def test_the_cost_of_this_run_stands_apart_from_that_of_the_archived_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four own runs of 30 s, and three of the archive, older by a year."""
    profile = write_specs(tmp_path)
    write_study_spec(tmp_path, "again", {"default": {}})
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.9)])
    for spec in pretrain_runs(profile, variant="default")[:3]:
        write_run(tmp_path / "made", spec, [(0.4, 0.9)])
    archived = [
        (record.model_copy(update={"started": "2025-01-01T00:00:00+00:00"}), rows)
        for _, record, rows in read_results(tmp_path / "made")
    ]
    write_archive(tmp_path / "results/studies/again.jsonl.gz", archived)
    shutil.rmtree(tmp_path / "made")

    document, page = build_at(tmp_path, profile, monkeypatch, latex_too=True)
    assert len(document["runs"]) == 7
    assert sum(row["runs"] for row in document["compute"]) == 4
    assert document["archived_compute"] == {"runs": 3, "seconds": 90.0}
    for text in (page, Path("out/report.tex").read_text()):
        own, studies = text.index("took 2 min 00 s in all"), text.index("1 min 30 s")
        assert own < studies
    assert page.index("4 runs of this profile</summary>") < page.index("3 runs of archived studies")

    # What is released was begun when the first own run was.
    project = {"name": "n", "version": "1", "license": "L", "description": "d"}
    assert describe(project, document).started.startswith("2026")


def test_a_training_that_several_studies_share_counts_once_and_an_own_one_not_at_all(
    study: Evidence,
) -> None:
    own, archived = study.runs[:2], study.runs[2:5]
    shared = replace(archived[0], folder="results/studies/other.jsonl.gz/pretrain/x/y")
    later = archived[1].record.model_copy(update={"started": "2026-02-01", "seconds": 7.0})
    repeated = replace(archived[1], record=later)
    found = archived_compute(own, [*own, *archived, shared, repeated])
    seconds = sum(run.record.seconds for run in archived)
    assert found == {"runs": 4, "seconds": pytest.approx(seconds + 7.0)}
