"""Stops and checkpoints: nothing lost, nothing counted twice, and ranks go on from the same one."""

import math
import os
import signal
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP

from repro.ledger import pending_rows
from repro.train import loop
from repro.train.build import build_model, build_optimizer
from repro.train.process import checkpoint, distributed
from repro.train.process.checkpoint import Saver
from repro.train.process.stopping import Interrupted
from repro.train.step import training_step
from tests.support.ranks import on_ranks
from tests.support.short_run import (
    assert_equal_models,
    no_outcomes,
    run,
    run_spec,
    signal_at,
    signal_in,
)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows as they were appended, without times."""
    return [row.model_dump() | {"seconds": 0} for row in pending_rows(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIP, list[dict[str, Any]]]:
    """Model and rows of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, run_spec()), rows(folder)


@pytest.mark.parametrize("at", [0, 3, 4, 8])
def test_a_stop_ends_an_evaluation_and_it_is_made_anew(whole: Any, at: int, tmp_path: Path) -> None:
    """Before training, in mid-epoch, at an epoch's end and after the last step."""
    asked = []

    def evaluate(model: Any, step: int, draw: int, stop: Any) -> Any:
        for batch in range(3):
            if step == at and batch == 1 and not asked:
                asked.append(step)
                os.kill(os.getpid(), signal.SIGTERM)
            stop()
            assert not asked or step > at or len(asked) > 1, "the evaluation goes on"
        return no_outcomes(model, step, draw, stop)

    with pytest.raises(Interrupted) as raised:
        run(tmp_path, run_spec(), evaluate)
    assert raised.value.code == 143
    assert at not in [row["step"] for row in rows(tmp_path)]
    asked.append(at)
    assert_equal_models(run(tmp_path, run_spec(), evaluate), whole[0], 0)
    assert rows(tmp_path) == whole[1]


def test_an_evaluation_before_a_kill_is_not_recorded_twice(whole: Any, tmp_path: Path) -> None:
    """Stopped in an evaluation, gone on, killed after its row: the checkpoint is of before."""

    class Killed(BaseException):
        """As SIGKILL leaves the folder."""

    def stopped(model: Any, step: int, draw: int, stop: Any) -> Any:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        stop()
        return no_outcomes(model, step, draw, stop)

    def killed(event: str, content: dict[str, Any]) -> None:
        if "zero_shot_top1" in content["values"] and content["step"] == 3:
            raise Killed

    with pytest.raises(Interrupted):
        run(tmp_path, run_spec(), stopped)
    with pytest.raises(Killed):
        run(tmp_path, run_spec(), emit=killed)
    assert [row["step"] for row in rows(tmp_path)] == [0, 3]
    assert_equal_models(run(tmp_path, run_spec()), whole[0], 0)
    assert rows(tmp_path) == whole[1]


def diverging(bad: int, made: list[int]) -> Any:
    """Steps that count in `made`, whose losses are no numbers from step `bad` on."""

    def step(*arguments: Any) -> Any:
        made.append(1)
        factor = math.nan if len(made) >= bad else 1.0
        return {name: value * factor for name, value in training_step(*arguments).items()}

    return step


@pytest.fixture(scope="module")
def diverged(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[int, str]:
    """The loss of step 4, that of an evaluation, or of step 5, between two, is no number; rows."""
    folder = tmp_path_factory.mktemp("diverged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "training_step", diverging(request.param, []))
        run(folder, run_spec())
    return request.param, repr(rows(folder))


@pytest.mark.parametrize(
    ("diverged", "step"),
    [*product([4], range(1, 5)), *product([5], range(1, 7))],
    indirect=["diverged"],
)
def test_a_run_that_diverges_ends_the_same_wherever_it_was_stopped(
    diverged: tuple[int, str], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = signal_in(step, diverging(diverged[0], []))
    monkeypatch.setattr(loop, "training_step", steps)
    with pytest.raises(Interrupted):
        run(tmp_path, run_spec())
    run(tmp_path, run_spec())
    assert repr(rows(tmp_path)) == diverged[1]


def test_ranks_stay_for_a_stops_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank that ends may take the one that writes with it."""
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    written, folder = [], tmp_path / "run"
    count = lambda: written.append(len([*folder.glob("checkpoint-*")]))  # noqa: E731
    monkeypatch.setattr(distributed, "barrier", count)
    with pytest.raises(Interrupted):
        run(folder, run_spec(), emit=signal_at(2))
    assert written == [1]


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        (0.0, 30.0),
        (0.02, 30.0),
        (4.0, 400.0),
        (60.0, 600.0),
    ],
)
def test_checkpoints_take_a_hundredth_of_the_time_and_ten_minutes_are_never_lost(
    cost: float, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Saver(tmp_path) as saver:
        saver.cost, now = cost, saver.begun
        for passed, due in ((seconds - 0.5, False), (seconds + 0.5, True)):
            monkeypatch.setattr(time, "monotonic", lambda passed=passed: now + passed)
            assert saver.due == due
        monkeypatch.undo()


def restored(folder: Path) -> str:
    """Step and temperature after the checkpoint that is used, or nothing."""
    spec = run_spec()
    model = build_model(spec.model, 1, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    state = checkpoint.load_checkpoint(folder, model, optimizer)
    return "" if state is None else f"{state['step']} {model.logit_scale.item()}"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`new` shows steps 1 and 2, `old` step 1 only; `none` is empty."""
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    for name, steps in {"new": [1, 2], "old": [1], "none": []}.items():
        (tmp_path / name).mkdir()
        for step in steps:
            with torch.no_grad():
                model.logit_scale.fill_(step)
            with Saver(tmp_path / name) as saver:
                saver.save(step, model, optimizer, {"step": step})
    return tmp_path


def restored_on_a_rank(folders: str) -> str:
    return restored(Path(folders) / ("old", "new")[distributed.rank()])


def test_ranks_go_on_from_the_checkpoint_that_rank_0_reads(folders: Path) -> None:
    assert on_ranks(2, restored_on_a_rank, str(folders)) == ["1 1.0"] * 2


@pytest.mark.parametrize(
    ("first", "here", "outcome"),
    [
        ("none", "new", ""),
        ("new", "new", "2 2.0"),
        ("new", "old", "rank 0 goes on from it, but rank 1 cannot: .*No such file"),
    ],
)
def test_a_rank_that_cannot_follow_rank_0_refuses(
    first: str, here: str, outcome: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    monkeypatch.setattr(distributed, "from_first", lambda value, _: sent.append(value) or value)
    restored(folders / first)  # as rank 0
    monkeypatch.setattr(distributed, "from_first", lambda value, device: sent[0])
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(checkpoint, "FOLLOW_SECONDS", 0.0)
    if "rank" in outcome:
        with pytest.raises(RuntimeError, match=outcome):
            restored(folders / here)
    else:
        assert restored(folders / here) == outcome
