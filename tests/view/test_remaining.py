"""The time left: from the plan at first, and then from what was measured."""

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.view import remaining
from repro.view.remaining import RUN_SECONDS, START_SECONDS, Remaining
from repro.view.states import RunState
from repro.view.watched import graph_stages


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("REPRO_SLOTS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return load_profile("mini")


def test_a_machine_of_half_the_speed_takes_twice_as_long(profile: object) -> None:
    """What is left after a run that took twice what the plan says: twice, on both sides."""
    states = [RunState(spec) for spec in clean_runs(profile)]  # type: ignore[arg-type]
    left = Remaining(profile)  # type: ignore[arg-type]
    before = left.of_runs(states)
    first = states[0]
    first.state, first.made_here, first.seconds = "done", True, 2 * (first.left or 0.0)
    after = left.of_runs(states)
    gone = first.seconds / 2 / 2  # on one of two places, at the plan's speed
    assert after == pytest.approx(2 * (before - gone), rel=0.1)


def test_runs_share_the_places_and_models_come_before_their_cleaning(profile: object) -> None:
    whole = Remaining(profile)  # type: ignore[arg-type]
    models = [RunState(spec) for spec in pretrain_runs(profile)]  # type: ignore[arg-type]
    cleanings = [RunState(spec) for spec in clean_runs(profile)]  # type: ignore[arg-type]
    both = whole.of_runs([*models, *cleanings])
    assert both == pytest.approx(whole.of_runs(models) + whole.of_runs(cleanings))
    seconds = sum(state.left or 0.0 for state in cleanings) + RUN_SECONDS * len(cleanings)
    at_least = seconds / 2 + START_SECONDS
    assert at_least - 1e-6 <= whole.of_runs(cleanings) < 1.1 * at_least


def test_a_done_study_takes_no_more_time(profile: object) -> None:
    states = [RunState(spec, "done") for spec in clean_runs(profile)]  # type: ignore[arg-type]
    left = Remaining(profile)  # type: ignore[arg-type]
    assert left.of_runs(states) == 0.0
    names = graph_stages("mini")
    assert left.of_stages(names, dict.fromkeys(names, (1.0, 2.0))) == 0.0


def test_stages_of_the_call_tell_how_fast_the_others_are(
    profile: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remaining, "TRUST_SECONDS", 1e-9)
    left, names = Remaining(profile), ["data@mini", "report@mini"]  # type: ignore[arg-type]
    slow = {"resolve@mini": (5.0, 5.0), "data@mini": (1.0, 1 + 3 * remaining.STAGE_SECONDS["data"])}
    assert left.of_stages(names, {}) == sum(
        remaining.STAGE_SECONDS[kind] for kind in ("data", "report")
    )
    assert left.of_stages(names, slow) == pytest.approx(3 * remaining.STAGE_SECONDS["report"])
