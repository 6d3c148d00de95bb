"""The time left: from the plan at first, and then from what was measured."""

import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import RunSpec
from repro.view import remaining
from repro.view.remaining import RUN_SECONDS, START_SECONDS, Remaining
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


def done(state: RunState, seconds: float, ended: float = 0.0) -> None:
    state.state = "done"
    state.made_here = True
    state.seconds = seconds
    state.ended = ended


def test_runs_of_half_the_speed_take_twice_as_long(left: Remaining) -> None:
    """Without a call, as on a cluster: what its runs tell is all there is."""
    states = fresh(CLEANINGS)
    before = left.seconds(states)
    alike = [s for s in states if s.spec.loss == "mmcl_ssl"]
    for state in alike[:6]:
        done(state, 2 * (state.left or 0.0))
    rest = [state for state in states if state.state != "done"]
    over = left.seconds(rest)
    assert over < before
    assert left.seconds(states) == pytest.approx(2 * over, rel=0.05)


def test_slow_models_make_half_of_their_cleaning_slow(left: Remaining) -> None:
    """By factors: what makes one stage slow need not be the machine alone."""
    expected = left.seconds(fresh(CLEANINGS))
    models = fresh(MODELS)
    left.seconds(models)
    for state in models:
        done(state, 4 * (state.left or 0.0))
    rest = fresh(CLEANINGS)
    assert left.seconds([*models, *rest]) == pytest.approx(2 * expected, rel=0.1)


def test_cleaning_another_objectives_model_takes_as_long(left: Remaining) -> None:
    """A study's objective is not in the profile; its cleaning runs are not like pre-training."""
    known = fresh(CLEANINGS[:1])
    unknown = [spec.model_copy(update={"pretrain_objective": "two_views"}) for spec in CLEANINGS]
    assert left.seconds(fresh(unknown[:1])) == pytest.approx(left.seconds(known))

    longest = max(left.seconds(fresh([spec])) for spec in MODELS)
    other = MODELS[-1].model_copy(update={"pretrain_objective": "two_views", "loss": "two_views"})
    assert left.seconds(fresh([other])) == pytest.approx(longest)


def test_runs_share_the_places_and_models_come_before_their_cleaning(left: Remaining) -> None:
    models = fresh(MODELS)
    cleanings = fresh(CLEANINGS)
    both = left.seconds([*models, *cleanings])
    assert both == pytest.approx(left.seconds(models) + left.seconds(cleanings))
    seconds = sum(state.left or 0.0 for state in cleanings) + RUN_SECONDS * len(cleanings)
    at_least = seconds / 2 + START_SECONDS
    assert at_least - 1e-6 <= left.seconds(cleanings) < 1.1 * at_least


def test_a_done_study_takes_no_more_time(left: Remaining) -> None:
    states = [RunState(spec, "done") for spec in CLEANINGS]
    assert left.seconds(states, NAMES, dict.fromkeys(NAMES, (1.0, 2.0)), 0.5) == 0.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """A time that stands still: a busy machine may take seconds between two lines of a test."""
    moment = time.time()
    monkeypatch.setattr(remaining, "time", SimpleNamespace(time=lambda: moment))
    return moment


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_what_is_over_of_a_call_tells_how_fast_the_rest_is(
    left: Remaining, now: float, slower: float
) -> None:
    """Also where nothing but starts and stages is slow, of which no run knows: a busy machine.

    What was there before the call, and stages that it left out, tell nothing.
    """
    states = fresh([*MODELS, *CLEANINGS])
    done(states[0], 0.0, now - 10_000)
    states[1].state = "done"  # in an archive
    before = left.seconds(states, NAMES[2:])
    began = now - slower * 60
    stages = {NAMES[0]: (now, now), NAMES[1]: (began, now)}
    whole = left.seconds(states, NAMES, stages, began)
    passed = left.stage_seconds["data"]
    expected = before * (now - began + 10) / (passed + 10)
    assert whole == pytest.approx(expected, rel=0.01)


def test_a_slow_download_makes_no_run_slow(left: Remaining, now: float) -> None:
    """The data took 500 s, and the models as long as planned."""
    states = fresh([*MODELS, *CLEANINGS])
    before = left.seconds(states, NAMES[2:])
    for state in states[: len(MODELS)]:
        done(state, 0.0, now)
    after = left.seconds(states, NAMES[2:])
    began = now - (before - after) - 500
    stages = {NAMES[0]: (began, began), NAMES[1]: (began, began + 500)}
    assert left.seconds(states, NAMES, stages, began) == pytest.approx(after, rel=0.2)


def test_a_larger_profile_takes_longer_to_make_its_data(left: Remaining) -> None:
    small = Remaining(load_profile("smoke"))
    assert small.stage_seconds["data"] < left.stage_seconds["data"]
    assert small.stage_seconds["report"] == left.stage_seconds["report"]


def test_a_start_that_has_begun_is_shorter_by_that(left: Remaining, now: float) -> None:
    states = fresh(CLEANINGS[:2])
    for state in states:
        state.state = "queued"
        state.since = now - START_SECONDS / 2
    waiting = left.seconds(fresh(CLEANINGS[:2]))
    assert left.seconds(states) == pytest.approx(waiting - START_SECONDS / 2)
