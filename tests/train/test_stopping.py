"""Stop requests: between steps and within evaluations, nothing lost and nothing counted twice."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repro.ledger import pending_rows
from repro.train import loop
from repro.train.process import device
from repro.train.process.stopping import Interrupted, stop_requests
from repro.train.step import training_step
from tests.support.short_run import CPU, Pairs, assert_equal_models, no_outcomes, run, run_spec


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


def test_the_loss_is_read_after_the_next_step_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for a step's loss before the next one is launched, but for an evaluation or a
    checkpoint.
    """
    order: list[str] = []

    class Loss:
        def __init__(self, step: int) -> None:
            self.step = step

        def __float__(self) -> float:
            order.append(f"read {self.step}")
            return 1.0

    def step(*arguments: Any) -> Any:
        number = 1 + sum(entry.startswith("step") for entry in order)
        order.append(f"step {number}")
        return {"loss": Loss(number)}

    def evaluate(*arguments: Any) -> Any:
        order.append("evaluation")
        return no_outcomes(*arguments)

    monkeypatch.setattr(loop, "training_step", step)
    run(tmp_path / "run", run_spec(), evaluate)
    assert order[:8] == [
        *("evaluation", "step 1", "step 2", "read 1", "step 3", "read 2", "read 3", "evaluation")
    ]


def test_on_a_gpu_only_the_copy_of_a_loss_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading any other tensor after a step was queued would wait for that step: the loop as on a
    GPU, with pinned memory and events pretended.
    """
    waits: list[str] = []
    buffers: list[int] = []
    under_way = [False]

    def pinned(count: int) -> torch.Tensor:
        buffer = torch.empty(count)
        buffers.append(buffer.untyped_storage().data_ptr())
        return buffer

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if under_way[0] and func is torch.ops.aten._local_scalar_dense.default:
                pointer = args[0].untyped_storage().data_ptr()
                waits.append("copy" if pointer in buffers else "device")
            return func(*args, **kwargs or {})

    def step(*arguments: Any) -> Any:
        losses = training_step(*arguments)
        under_way[0] = True
        return losses

    class Watched(Pairs):
        def batch(self, step: int) -> Any:
            under_way[0] = False
            return super().batch(step)

    def evaluate(*arguments: Any) -> Any:
        under_way[0] = False
        return no_outcomes(*arguments)

    plain = run(tmp_path / "plain", run_spec())
    monkeypatch.setattr(device, "_pinned", pinned)
    monkeypatch.setattr(device, "_mark", lambda: SimpleNamespace(synchronize=lambda: None))
    gpu = torch.device("cuda")
    monkeypatch.setattr(loop, "LateValues", lambda _: device.LateValues(gpu))
    monkeypatch.setattr(loop, "training_step", step)
    with Reads():
        other = run(tmp_path / "gpu", run_spec(), evaluate, pairs=Watched())
    assert waits and set(waits) == {"copy"}
    assert_equal_models(other, plain, 0)
    assert rows(tmp_path / "gpu") == rows(tmp_path / "plain")


def test_signals_are_collected_only_while_the_run_lasts() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with stop_requests(CPU) as stop:
        stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted):
            stop()
    assert signal.getsignal(signal.SIGUSR1) is before
