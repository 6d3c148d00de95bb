"""The time left: what the plan expects, times what was measured over what was expected of it."""

import time
from collections.abc import Sequence

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import RunSpec
from repro.view.remaining import PAIR_SECONDS, STAGE_SECONDS, TRUST_SECONDS, Remaining
from repro.view.states import RunState
from repro.view.watched import graph_stages

MODELS = pretrain_runs(load_profile("mini"))
CLEANINGS = clean_runs(load_profile("mini"))
NAMES = graph_stages("mini")


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Remaining:
    monkeypatch.setenv("REPRO_SLOTS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Remaining(load_profile("mini"))


def fresh(specs: Sequence[RunSpec]) -> list[RunState]:
    return [RunState(spec) for spec in specs]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_rest_is_as_much_slower_as_what_was_made(left: Remaining, factor: float) -> None:
    states = fresh([*MODELS, *CLEANINGS])
    left.seconds(states)
    for state in states[: len(MODELS)]:
        state.state = "done"
        state.seconds = factor * (state.left or 0.0)
    made = sum(left.expected(spec) for spec in MODELS)
    ratio = (factor * made + TRUST_SECONDS) / (made + TRUST_SECONDS)
    expected = left.seconds(fresh(CLEANINGS))
    assert left.seconds(states) == pytest.approx(expected * ratio)


def test_half_of_a_run_is_half_of_its_time(left: Remaining) -> None:
    [state] = fresh(MODELS[:1])
    whole = left.seconds([state])
    state.state, state.step, state.total_steps = "running", 5, 10
    assert left.seconds([state]) == pytest.approx(whole / 2)
    assert state.left == pytest.approx(whole / 2)


def test_runs_share_the_places_and_models_come_before_their_cleaning(left: Remaining) -> None:
    models, cleanings = fresh(MODELS), fresh(CLEANINGS)
    both = left.seconds([*models, *cleanings])
    assert both == pytest.approx(left.seconds(models) + left.seconds(cleanings))
    seconds = sum(state.left or 0.0 for state in cleanings)
    assert left.seconds(cleanings) == pytest.approx(seconds / 2)
    # One run alone has one place.
    assert left.seconds(cleanings[:1]) == pytest.approx(cleanings[0].left)


def test_cleaning_another_objectives_model_takes_as_long(left: Remaining) -> None:
    """A study's objective is not in the profile; its cleaning runs are not like pre-training."""
    unknown = [spec.model_copy(update={"pretrain_objective": "two_views"}) for spec in CLEANINGS]
    assert left.seconds(fresh(unknown[:1])) == pytest.approx(left.seconds(fresh(CLEANINGS[:1])))
    longest = max(left.seconds(fresh([spec])) for spec in MODELS)
    other = MODELS[-1].model_copy(update={"pretrain_objective": "two_views", "loss": "two_views"})
    assert left.seconds(fresh([other])) == pytest.approx(longest)


def test_stages_count_until_they_have_ended(left: Remaining) -> None:
    states = [RunState(spec, "done") for spec in CLEANINGS]
    assert left.seconds(states, NAMES, dict.fromkeys(NAMES, (1.0, 2.0))) == 0.0
    pairs = sum(left.profile.data.num_pairs.values())
    data = STAGE_SECONDS["data"] + PAIR_SECONDS * pairs
    whole = STAGE_SECONDS["report"] + data + len(NAMES) - 2
    assert left.seconds(states, NAMES) == pytest.approx(whole)
    running = {NAMES[1]: (time.time() - 20, 0.0)}
    assert left.seconds(states, NAMES, running) == pytest.approx(whole - 20, abs=1)
