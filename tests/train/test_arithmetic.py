"""Flags of a run's arithmetic: set before its first evaluation, whatever ran before it in the
process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repro.train.model import normalise
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from tests.support.short_run import CPU, no_outcomes, run, run_spec, run_to_outcome

GPU = torch.device("cuda", 0)


def flags() -> tuple[bool, bool, bool, bool]:
    """TF32 of matrix products and of convolutions, repeatability, choice by trial."""
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(autouse=True)
def _flags_restored() -> Iterator[None]:
    """Other tests find the flags as they were."""
    matmul, convolution, repeatable, benchmark = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolution
    torch.use_deterministic_algorithms(repeatable)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_the_start_evaluation_computes_like_those_after_training(
    precision: str, tf32: bool, tmp_path: Path
) -> None:
    """The flags are left as another run of the process would leave them, and as a fresh process has
    them.
    """
    spec = run_spec(optimizer_state="fresh").model_copy(update={"precision": precision})
    for number, left in enumerate([(not tf32, not tf32), (False, True)]):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = left
        seen = []

        def evaluate(*arguments: Any, seen: list[Any] = seen) -> Any:
            seen.append(flags()[:2])
            return no_outcomes(*arguments)

        run(tmp_path / str(number), spec, evaluate)
        assert seen == [(tf32, tf32)] * 5


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_is_repeatable_or_chooses_by_trial_and_says_which(
    deterministic: bool, tmp_path: Path
) -> None:
    spec = run_spec().model_copy(update={"deterministic": deterministic})
    torch.use_deterministic_algorithms(not deterministic)
    _, outcome = run_to_outcome(tmp_path / "run", spec)
    assert flags()[2:] == (deterministic, not deterministic)
    assert outcome["deterministic"] == deterministic


@pytest.mark.parametrize("workspace", [None, ":0:0"])
def test_a_repeatable_run_on_a_gpu_needs_a_fixed_workspace(
    workspace: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workspace is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    with pytest.raises(RuntimeError, match=r"CUBLAS_WORKSPACE_CONFIG: '.*' .allowed where"):
        set_arithmetic("tf32", True, GPU)
    set_arithmetic("tf32", False, GPU)
    assert flags() == (True, True, False, True)


def test_on_a_gpu_an_operation_that_cannot_be_repeated_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_arithmetic("tf32", True, GPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_pixels_are_normalised_by_constants_that_the_device_has_already() -> None:
    """No tensor is made or copied after the first batch, in training as in inference mode."""
    operations = []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            operations.append(func.overloadpacket.__name__)
            return func(*args, **kwargs or {})

    for device in ("cpu", "meta"):
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device=device)
        with torch.inference_mode():
            normalise(images)
        operations.clear()
        with Recorded():
            assert normalise(images).device.type == device
        assert operations == ["sub", "div", "clone"]


def test_each_run_of_a_process_counts_its_own_peak(tmp_path: Path) -> None:
    reset_peak(CPU)
    large = torch.ones(150 * 2**20)  # 600 MiB
    peak = peak_bytes(CPU)
    del large
    _, outcome = run_to_outcome(tmp_path / "run", run_spec())
    assert outcome["peak_memory_bytes"] < peak - 300 * 2**20
