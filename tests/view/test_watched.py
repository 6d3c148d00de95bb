"""The time left: what the plan expects, times what was measured over what was expected of it."""

from pathlib import Path

import pytest

from repro.__main__ import main
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.layout import RESULTS
from repro.spec import RunSpec
from repro.view.states import RunState
from repro.view.watched import TRUST_SECONDS, Watched

MINI = load_profile("mini", Path(__file__).parents[2] / "specs")
MODELS, CLEANINGS = pretrain_runs(MINI), clean_runs(MINI)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_SLOTS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def watch(specs: list[RunSpec]) -> tuple[Watched, list[RunState]]:
    return Watched("mini", MINI, specs, RESULTS), [RunState(spec) for spec in specs]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_rest_is_as_much_slower_as_what_was_made(factor: float) -> None:
    watched, states = watch([*MODELS, *CLEANINGS])
    untouched = watched.seconds_left(states)
    models = sum(watched.expected[: len(MODELS)])
    for state, expected in zip(states[: len(MODELS)], watched.expected, strict=False):
        state.state = "done"
        state.seconds = factor * expected
    ratio = (factor * models + TRUST_SECONDS) / (models + TRUST_SECONDS)
    cleaning = untouched - max(models / 2, *watched.expected[: len(MODELS)])
    assert watched.seconds_left(states) == pytest.approx(cleaning * ratio)


def test_half_of_a_run_is_half_of_its_time() -> None:
    watched, [state] = watch(MODELS[:1])
    whole = watched.seconds_left([state])
    state.state, state.step, state.total_steps = "running", 5, 10
    assert watched.seconds_left([state]) == pytest.approx(whole / 2)
    assert state.left == pytest.approx(whole / 2)


def test_runs_share_the_places(here: Path) -> None:
    watched, states = watch(CLEANINGS)
    assert watched.seconds_left(states) == pytest.approx(sum(watched.expected) / 2)
    # One run alone has one place.
    alone, [state] = watch(CLEANINGS[:1])
    assert alone.seconds_left([state]) == pytest.approx(alone.expected[0])


def test_a_login_node_tells_of_runs_that_only_gpus_make(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No rate of a core is known in their arithmetic."""
    assert main(["status", "paper"]) == 0
    assert "178 runs are to be made" in capsys.readouterr().out
