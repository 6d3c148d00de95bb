"""Stop requests: between steps and within evaluations, nothing lost and nothing counted twice."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repro.ledger import pending_rows
from repro.train import loop
from repro.train.process import device, distributed
from repro.train.process.stopping import Interrupted, stop_requests
from repro.train.step import training_step
from tests.support.short_run import (
    CPU,
    Pairs,
    assert_equal_models,
    no_outcomes,
    run,
    run_spec,
    signal_at,
)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows as they were appended, without times."""
    return [{**record["row"], "seconds": 0} for record in pending_rows(folder)]


@pytest.mark.parametrize("at", [0, 3, 4, 8])
def test_a_stop_ends_an_evaluation_between_batches_and_it_is_made_anew(
    at: int, tmp_path: Path
) -> None:
    """Before training, in mid-epoch, at an epoch's end and after the last step."""
    whole = run(tmp_path / "whole", run_spec())
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
        run(tmp_path / "parts", run_spec(), evaluate)
    assert raised.value.code == 143
    assert at not in [row["step"] for row in rows(tmp_path / "parts")]
    asked.append(at)
    assert_equal_models(run(tmp_path / "parts", run_spec(), evaluate), whole, 0)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_an_evaluation_that_a_kill_follows_is_not_recorded_twice(tmp_path: Path) -> None:
    """Stopped in an evaluation, gone on, killed after its row: the checkpoint is that of before the
    row.
    """
    whole = run(tmp_path / "whole", run_spec())

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
        run(tmp_path / "parts", run_spec(), stopped)
    with pytest.raises(Killed):
        run(tmp_path / "parts", run_spec(), emit=killed)
    assert [row["step"] for row in rows(tmp_path / "parts")] == [0, 3]
    assert_equal_models(run(tmp_path / "parts", run_spec()), whole, 0)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_run_that_diverges_ends_the_same_wherever_it_was_stopped(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of step 4, that of an evaluation, and of step 5, between two, is no number."""
    for bad in (4, 5):
        folder = tmp_path / str(bad)
        folder.mkdir()
        made = []

        def diverging(*arguments: Any, made: list[int] = made, bad: int = bad) -> Any:
            losses = training_step(*arguments)
            made.append(1)
            if len(made) >= bad:
                return {name: value * math.nan for name, value in losses.items()}
            return losses

        def stopping(event: str, content: dict[str, Any]) -> None:
            if len(made) == step:  # noqa: B023
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(loop, "training_step", diverging)
        run(folder / "whole", run_spec())
        made.clear()
        monkeypatch.setattr(loop, "METRIC_EVERY", 1)
        try:
            run(folder / "parts", run_spec(), emit=stopping)
        except Interrupted:
            run(folder / "parts", run_spec())
        monkeypatch.undo()
        assert repr(rows(folder / "parts")) == repr(rows(folder / "whole"))


def test_only_the_copy_of_a_loss_is_waited_for_and_after_the_next_step_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for an evaluation or a checkpoint. Reading any other tensor of a GPU after a step was
    queued would wait for that step.
    """
    order = ["evaluation"]
    copied: set[int] = set()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            read = func is torch.ops.aten._local_scalar_dense.default
            if read and order[-1] in ("step", "read", "wait"):
                own = args[0].untyped_storage().data_ptr() in copied
                order.extend([] if own else ["wait"])
            return func(*args, **kwargs or {})

    def step(*arguments: Any) -> Any:
        losses = training_step(*arguments)
        order.append("step")
        return {"loss": losses["loss"]}

    def to_host(tensors: Any) -> Any:
        copies, _ = device.to_host(tensors)
        copied.clear()
        copied.update(copy.untyped_storage().data_ptr() for copy in copies.values())
        assert copied.isdisjoint(value.untyped_storage().data_ptr() for value in tensors.values())
        return copies, lambda: order.append("read")

    def evaluate(*arguments: Any) -> Any:
        order.append("evaluation")
        return no_outcomes(*arguments)

    class Watched(Pairs):
        def batch(self, step: int) -> Any:
            order.append("batch")
            return super().batch(step)

    monkeypatch.setattr(loop, "training_step", step)
    monkeypatch.setattr(loop, "to_host", to_host)
    with Reads():
        run(tmp_path / "run", run_spec(), evaluate, pairs=Watched())
    told = [entry for entry in order if entry != "batch"]
    assert told[1:9] == [
        *("evaluation", "step", "step", "read", "step", "read", "read", "evaluation")
    ]
    assert "wait" not in order


def test_all_ranks_stay_until_the_checkpoint_of_a_stop_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank that ends may take the one that writes with it."""
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    written = []
    monkeypatch.setattr(
        distributed,
        "barrier",
        lambda: written.append(len([*(tmp_path / "run").glob("checkpoint-*")])),
    )
    with pytest.raises(Interrupted):
        run(tmp_path / "run", run_spec(), emit=signal_at(2))
    assert written == [1]


def test_signals_are_collected_only_while_the_run_lasts() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with stop_requests(CPU) as stop:
        stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted):
            stop()
    assert signal.getsignal(signal.SIGUSR1) is before
