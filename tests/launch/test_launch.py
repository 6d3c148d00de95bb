"""Whole launches of the stub worker: what is due runs once, and no death loses a finished run."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from repro.launch.driver import run_all
from repro.profile import clean_runs, pretrain_runs
from repro.runs.run import LaunchError
from repro.spec import Profile
from tests.support.launch import (
    Launch,
    published,
    result,
    start_driver,
    started,
    stub_inputs,
    tracked,
)
from tests.support.processes import processes, wait_for
from tests.support.short_run import scheduled


def test_runs_are_published_and_recorded_once(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs)
    ids = sorted(spec.run_id for spec in specs)
    assert sorted(started()) == ids
    assert published(specs) == dict.fromkeys(ids, "completed")
    record, rows = result(specs[0])
    assert [row.step for row in rows] == [0, 1, 2]
    assert record.seconds == 1.5
    assert record.sacred is not None
    sacred = Path("sacred") / record.sacred
    assert json.loads((sacred / "config.json").read_bytes())["fingerprint"] == record.fingerprint
    assert json.loads((sacred / "metrics.json").read_bytes())["loss"]["values"] == [1, 1 / 2]
    assert json.loads((sacred / "run.json").read_bytes())["status"] == "COMPLETED"
    assert f"hello from {specs[0].run_id}" in (sacred / "cout.txt").read_text()
    launch(specs)
    assert started() == []

    # A threshold of the report retrains nothing, another learning rate its run alone.
    evaluate = specs[0].evaluate.model_copy(update={"asr_cap": 0.07})
    launch([spec.model_copy(update={"evaluate": evaluate}) for spec in specs])
    assert started() == []
    assert result(specs[0])[0].spec.evaluate.asr_cap == 0.07
    changed = [scheduled(specs[0], learning_rate=2e-3), *specs[1:]]
    launch(changed)
    assert started() == [changed[0].run_id]
    assert sorted(published(specs)) == sorted(spec.run_id for spec in changed)


def test_a_study_and_the_graph_share_a_run_of_two_names(profile: Profile, launch: Launch) -> None:
    """The same training of two variants runs once; each gets its folder, record and rows."""
    spec = clean_runs(profile)[0]
    named = [spec.model_copy(update={"variant": name}) for name in ("default", "twin")]
    launch(named)
    assert len(started()) == 1
    launch([spec])
    assert started() == []
    for run in (spec, *named):
        record, rows = result(run)  # which checks that the rows are the run's
        assert record.spec == run
        assert [row.variant for row in rows] == [run.variant] * 3


def test_a_worker_that_dies_once_costs_one_try(profile: Profile, launch: Launch) -> None:
    """Points before the death are kept."""
    specs = clean_runs(profile)
    launch(specs, {specs[0].run_id: "die once"})
    assert sorted(started()) == sorted([specs[0].run_id, *(spec.run_id for spec in specs)])
    assert set(published(specs).values()) == {"completed"}
    assert sorted(tracked().values()) == ["COMPLETED"] * 3 + ["FAILED"]
    (failed,) = (number for number, status in tracked().items() if status == "FAILED")
    again = Path("sacred") / str(result(specs[0])[0].sacred)
    assert json.loads((again / "info.json").read_bytes())["resumes"] == f"smoke/{failed}"
    assert json.loads((again / "metrics.json").read_bytes())["loss"]["steps"] == [0, 1, 2]


def test_a_run_that_fails_twice_is_named_and_others_go_on(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    name = specs[1].run_id
    with pytest.raises(LaunchError, match=f"1 of 3 .*\n.*{name}: RuntimeError: no such luck"):
        launch(specs, {name: "raise"})
    ends = dict.fromkeys((spec.run_id for spec in specs), "completed")
    assert published(specs) == ends | {name: "failed"}
    started()
    launch(specs)
    assert started() == [name]
    assert published(specs) == ends


def test_a_worker_that_the_system_kills_says_what_that_often_means(
    profile: Profile, launch: Launch
) -> None:
    specs = clean_runs(profile)[:1]
    with pytest.raises(LaunchError, match=r"ended with status -9 \(killed, as by .* memory\)"):
        launch(specs, {specs[0].run_id: "die"})


def test_a_worker_that_cannot_start_fails_all_runs(profile: Profile, launch: Launch) -> None:
    with pytest.raises(LaunchError, match=r"3 of 3 runs failed(.|\n)*status 1"):
        launch(clean_runs(profile), worker="no_such_worker")


def test_a_pretrained_model_is_published_with_its_record(profile: Profile, launch: Launch) -> None:
    """Again from the work folder; without either it counts only where rows suffice."""
    specs = pretrain_runs(profile, "cc3m", "mmcl")[:1]
    launch(specs)
    folder = Path("models/smoke/cc3m-mmcl") / f"seed{specs[0].seed}"
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((folder / "run.json").read_bytes())["status"] == "completed"
    (folder / "model.safetensors").unlink()
    started()
    launch(specs)
    assert (folder / "model.safetensors").exists()
    assert started() == []

    shutil.rmtree("models")
    shutil.rmtree("work")
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
    others = {specs[0].run_id, specs[2].run_id}
    wait_for(lambda: others <= published(specs).keys() and len(tracked()) == len(specs))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: processes() == [])
    assert sorted(tracked().values()) == ["COMPLETED", "COMPLETED", "INTERRUPTED"]
    started()
    launch(specs)
    assert started() == [specs[1].run_id]


def test_two_drivers_run_nothing_twice(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    both = [start_driver(specs, {specs[1].run_id: "wait"}) for _ in range(2)]
    logs = Path("work/jobs")
    wait_for(lambda: any("another process works" in p.read_text() for p in logs.glob("*.log")))
    Path("go").touch()
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    assert sorted(started()) == sorted(spec.run_id for spec in specs)
