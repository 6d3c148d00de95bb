"""What the folders in work/ and results/ say of a run, whoever makes it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repro.files import replace_json
from repro.profile import clean_runs, load_profile
from repro.runs.deliver import save_failure
from repro.runs.layout import RESULTS
from repro.runs.run import Run
from repro.spec import Profile
from repro.view.states import LOW_ASR, RunState, key_of, read_states
from tests.support.launch import Launch

STATUS = {
    "host": "node7",
    "step": 30,
    "total_steps": 120,
    "epoch": 1.5,
    "seconds": 60.0,
    "values": {"loss": 2.5, "zero_shot_top1": 0.4, "attack_success_rate": 0.9},
}


@pytest.fixture
def run(here: Path) -> Run:
    """A run that a driver has prepared."""
    made = Run(clean_runs(load_profile("smoke"))[0], "a" * 16, {}, "code")
    made.save()
    return made


@contextmanager
def carried(run: Run) -> Iterator[None]:
    """A job has taken the run."""
    with (run.work_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def state_of(run: Run) -> RunState:
    [state] = read_states([(run.spec, key_of(run.spec))], RESULTS)
    return state


def test_an_empty_folder_has_runs_that_wait(here: Path) -> None:
    specs = clean_runs(load_profile("smoke"))
    states = read_states([(spec, key_of(spec)) for spec in specs], RESULTS)
    assert [state.spec for state in states] == specs
    assert {(state.state, state.share) for state in states} == {("waiting", 0.0)}


def test_a_run_goes_from_waiting_to_queued_to_running_to_stopped(run: Run) -> None:
    assert state_of(run).state == "waiting"
    with carried(run):
        assert state_of(run).state == "queued"
        replace_json(run.work_dir / "status.json", STATUS)
        state = state_of(run)
        assert state.state == "running"
        assert state.where == "node7"
        assert state.share == 0.25
        assert state.loss == 2.5
        assert state.accuracy == 0.4
        assert state.asr == 0.9
    assert state_of(run).state == "stopped"


def test_a_cleaning_of_another_variants_model_is_another_run(here: Path) -> None:
    """The specification of a cleaning does not tell how its model was pre-trained."""
    spec = clean_runs(load_profile("smoke"))[0]
    one, other = (spec.model_copy(update={"variant": name}) for name in ("one", "other"))
    for fingerprint, of in (("a" * 16, one), ("b" * 16, other)):
        Run(of, fingerprint, {}, "code").save()
    replace_json(Path("work") / ("b" * 16) / "status.json", STATUS)
    states = read_states([(of, key_of(of)) for of in (one, other)], RESULTS)
    assert [(state.state, state.step) for state in states] == [("waiting", 0), ("stopped", 30)]


def test_a_batch_that_takes_a_stopped_run_again_has_not_come_to_it_yet(run: Run) -> None:
    path = run.work_dir / "status.json"
    replace_json(path, STATUS)
    os.utime(path, (1.0, 1.0))
    with carried(run):
        assert state_of(run).state == "queued"


def test_a_failed_run_has_its_reason(run: Run) -> None:
    save_failure(run, "no such luck", 2)
    state = state_of(run)
    assert state.state == "failed"
    assert state.reason == "no such luck"
    assert state.warning == "no such luck"


def test_a_published_run_is_done_also_where_work_is_gone(profile: Profile, launch: Launch) -> None:
    specs = clean_runs(profile)
    launch(specs)
    for _ in range(2):
        states = read_states([(spec, key_of(spec)) for spec in specs], RESULTS)
        assert [state.state for state in states] == ["done"] * len(specs)
        assert {(state.accuracy, state.asr) for state in states} == {(0.25, 0.25)}
        shutil.rmtree("work", ignore_errors=True)

    # Of another learning rate, and of an unfinished run that takes the place of a published one.
    other = specs[0].schedule.model_copy(update={"warmup_steps": 0})
    changed = specs[0].model_copy(update={"schedule": other})
    assert read_states([(changed, key_of(changed))], RESULTS)[0].state == "waiting"


def test_the_time_of_a_run_that_was_not_made_here_tells_nothing(
    profile: Profile, launch: Launch
) -> None:
    """Or a study would be expected to make the rest of its runs as fast as another machine."""
    spec = clean_runs(profile)[0]
    launch([spec])
    [state] = read_states([(spec, key_of(spec))], RESULTS)
    assert state.seconds > 0
    shutil.rmtree("work")
    [state] = read_states([(spec, key_of(spec))], RESULTS)
    assert (state.state, state.seconds) == ("done", 0.0)


def test_torn_files_hide_nothing(run: Run) -> None:
    for name in ("status.json", "record.json", "rows.jsonl"):
        (run.work_dir / name).write_text('{"step": ')
    assert state_of(run).state == "stopped"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"asr": LOW_ASR / 2}, "the backdoor is not taking"),
        ({"asr": 0.9, "waiting_share": 0.5}, "50% of the time goes on waiting"),
        ({"asr": LOW_ASR / 2, "step": 1}, ""),
        ({"asr": 0.9, "waiting_share": 0.1}, ""),
    ],
)
def test_a_warning_tells_what_is_not_as_expected(changes: dict[str, float], said: str) -> None:
    spec = clean_runs(load_profile("mini"))[0]
    pretrain = spec.model_copy(update={"stage": "pretrain"})
    state = RunState(pretrain, "running", step=6, total_steps=10)
    for name, value in changes.items():
        setattr(state, name, value)
    assert said in state.warning
    assert bool(said) == bool(state.warning)
