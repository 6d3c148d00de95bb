"""The launcher: what is due runs once, what is done stays, and no death loses a finished run.

Whole launches use tests/stub_worker.py under the real pack process, torchrun and Sacred.
"""

# ruff: noqa: F811  (fixtures are imported, and named again where they are used)

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from repro.launch.driver import run_all
from repro.profile import clean_runs, pretrain_runs
from repro.runs.layout import results_dir
from repro.runs.published import read_run
from repro.runs.run import LaunchError
from repro.spec import Profile
from tests.support.launch import (  # noqa: F401  (fixtures)
    Launch,
    launch,
    processes,
    profile,
    published,
    start_driver,
    started,
    stub_inputs,
    wait_for,
)


def test_runs_are_published_and_recorded_once(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs)
    ids = sorted(spec.run_id for spec in specs)
    assert sorted(started()) == ids
    assert published(specs) == dict.fromkeys(ids, "completed")
    record, rows = read_run(results_dir(specs[0], Path("results")) / specs[0].run_id)
    assert [row.step for row in rows] == [0, 1, 2]
    assert record.seconds == 1.5 and record.sacred is not None
    sacred = Path("sacred") / record.sacred
    assert json.loads((sacred / "config.json").read_bytes())["fingerprint"] == record.fingerprint
    assert json.loads((sacred / "metrics.json").read_bytes())["loss"]["values"] == [1, 1 / 2]
    assert json.loads((sacred / "run.json").read_bytes())["status"] == "COMPLETED"
    assert f"hello from {specs[0].run_id}" in (sacred / "cout.txt").read_text()
    launch(specs)
    assert started() == []


def test_only_a_changed_learning_rate_runs_again(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs)
    started()
    schedule = specs[0].schedule.model_copy(update={"learning_rate": 2e-3})
    changed = [specs[0].model_copy(update={"schedule": schedule}), *specs[1:]]
    launch(changed)
    assert started() == [changed[0].run_id]
    assert sorted(published(specs)) == sorted(spec.run_id for spec in changed)


def test_a_study_and_the_graph_share_a_run_under_names_of_their_own(
    profile: Profile, launch: Launch
) -> None:
    """The same training asked for by two variants runs once; each gets its folder, its record and
    its rows.
    """
    spec = clean_runs(profile)[0]
    named = [spec.model_copy(update={"variant": name}) for name in ("default", "twin")]
    launch(named)
    assert len(started()) == 1
    launch([spec])
    assert started() == []
    for run in (spec, *named):
        record, rows = read_run(
            results_dir(run, Path("results")) / run.run_id
        )  # which checks that the rows are the run's
        assert record.spec == run and [row.variant for row in rows] == [run.variant] * 3


def test_a_threshold_of_the_report_retrains_nothing(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs)
    started()
    launch(
        [
            spec.model_copy(update={"evaluate": spec.evaluate.model_copy(update={"asr_cap": 0.07})})
            for spec in specs
        ]
    )
    assert started() == []
    assert (
        read_run(results_dir(specs[0], Path("results")) / specs[0].run_id)[0].spec.evaluate.asr_cap
        == 0.07
    )


def test_a_worker_that_dies_once_costs_one_try(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs, {specs[0].run_id: "die once"})
    assert sorted(started()) == sorted([specs[0].run_id, *(spec.run_id for spec in specs)])
    assert set(published(specs).values()) == {"completed"}
    records = [
        json.loads(path.read_bytes()) for path in sorted(Path("sacred/smoke").glob("*/run.json"))
    ]
    assert sorted(record["status"] for record in records) == ["COMPLETED"] * 3 + ["FAILED"]
    failed = next(
        path.parent
        for path in Path("sacred/smoke").glob("*/run.json")
        if json.loads(path.read_bytes())["status"] == "FAILED"
    )
    record, _ = read_run(results_dir(specs[0], Path("results")) / specs[0].run_id)
    again = Path("sacred") / str(record.sacred)
    assert json.loads((again / "info.json").read_bytes())["resumes"] == f"smoke/{failed.name}"
    assert json.loads((again / "metrics.json").read_bytes())["loss"]["steps"] == [0, 1, 2], (
        "points before the death are kept"
    )


def test_a_run_that_fails_twice_is_named_and_the_others_go_on(
    profile: Profile, launch: Launch
) -> None:
    specs = clean_runs(profile)
    with pytest.raises(
        LaunchError, match=f"1 of 3 runs failed.*\n.*{specs[1].run_id}: RuntimeError: no such luck"
    ):
        launch(specs, {specs[1].run_id: "raise"})
    assert published(specs) == {
        spec.run_id: "failed" if spec is specs[1] else "completed" for spec in specs
    }
    started()
    launch(specs)
    assert started() == [specs[1].run_id]
    assert set(published(specs).values()) == {"completed"}


def test_a_worker_that_cannot_start_fails_all_runs_with_its_reason(
    profile: Profile, launch: Launch
) -> None:
    with pytest.raises(LaunchError, match=r"3 of 3 runs failed(.|\n)*status 1"):
        launch(clean_runs(profile), worker="no_such_worker")


def test_a_pretrained_model_is_published_with_its_record(profile: Profile, launch: Launch) -> None:
    specs = pretrain_runs(profile, "cc3m", "mmcl")[:1]
    launch(specs)
    folder = Path("models/smoke/cc3m-mmcl") / f"seed{specs[0].seed}"
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((folder / "run.json").read_bytes())["status"] == "completed"
    (folder / "model.safetensors").unlink()
    started()
    launch(specs)
    assert (folder / "model.safetensors").exists() and started() == [], (
        "published again from the work folder"
    )


def test_a_pretraining_without_its_model_is_done_only_where_rows_suffice(
    profile: Profile, launch: Launch
) -> None:
    specs = pretrain_runs(profile, "cc3m", "mmcl")[:1]
    launch(specs)
    shutil.rmtree("models")
    shutil.rmtree("work")
    started()
    run_all(specs, stub_inputs, worker="tests.support.stub_worker", models=[])
    assert started() == []
    launch(specs)
    assert started() == [spec.run_id for spec in specs]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_driver_leaves_no_process_and_the_next_goes_on(
    profile: Profile, launch: Launch, number: signal.Signals
) -> None:
    specs = clean_runs(profile)
    process = start_driver(specs, {specs[1].run_id: "wait"})
    wait_for(
        lambda: (
            set(published(specs)) >= {specs[0].run_id, specs[2].run_id}
            and len(list(Path("sacred/smoke").glob("*/run.json"))) == len(specs)
        )
    )
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: processes() == [])
    statuses = sorted(
        json.loads(path.read_bytes())["status"] for path in Path("sacred/smoke").glob("*/run.json")
    )
    assert statuses == ["COMPLETED", "COMPLETED", "INTERRUPTED"]
    started()
    launch(specs)
    assert started() == [specs[1].run_id]


def test_two_drivers_run_nothing_twice(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    both = [start_driver(specs, {specs[1].run_id: "wait"}) for _ in range(2)]
    wait_for(
        lambda: (
            "another process works on it"
            in "".join(path.read_text() for path in Path("work/packs").glob("*.log"))
        )
    )
    Path("go").touch()
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    assert sorted(started()) == sorted(spec.run_id for spec in specs)
