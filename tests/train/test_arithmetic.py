"""Arithmetic of a run: its flags, whatever ran before, and no operand left on the CPU."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import predict
from repro.train.build import build_model, build_optimizer
from repro.train.defences import objective_of
from repro.train.gradient_cache import GradientCache
from repro.train.model import PairEncoder, normalise
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from repro.train.step import training_step
from tests.support.short_run import CPU, defended, no_outcomes, run, run_spec, run_to_outcome

GPU = torch.device("cuda", 0)


def flags() -> tuple[bool, bool, bool, bool]:
    """TF32 of matrix products and of convolutions, repeatability, choice by trial."""
    cudnn, repeatable = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, repeatable, cudnn.benchmark


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
    """Flags as another run of the process would leave them, and as a fresh process has them."""
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
def test_a_run_is_repeatable_or_fast_and_says_which(deterministic: bool, tmp_path: Path) -> None:
    spec = run_spec().model_copy(update={"deterministic": deterministic})
    torch.use_deterministic_algorithms(not deterministic)
    _, outcome = run_to_outcome(tmp_path / "run", spec)
    assert flags()[2:] == (deterministic, not deterministic)
    assert outcome["deterministic"] == deterministic


def test_on_a_gpu_an_unrepeatable_operation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_arithmetic("tf32", True, GPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_pixels_are_normalised_by_constants_that_the_device_has_already() -> None:
    """No tensor is made or copied after the first batch, in training as in inference mode."""
    operations = []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
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


META = torch.device("meta")
PAIRS = 8


@pytest.fixture
def without_what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's fused kernel and autocast know no meta tensors; the other makes the same update."""
    original = torch.optim.AdamW

    def unfused(*arguments: Any, fused: bool, **options: Any) -> torch.optim.AdamW:
        return original(*arguments, **options)

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


@pytest.mark.usefixtures("without_what_meta_lacks")
@pytest.mark.parametrize("cached", [False, True])
def test_a_step_needs_nothing_from_the_cpu(cached: bool) -> None:
    """With a defence that has modules of its own."""
    spec = defended(run_spec(optimizer_state="fresh"), "deep_clustering", clusters=3, weight=3.0)
    model, modules = build_model(spec.model, 0, "fp32").to(META), objective_of(spec).modules
    assert modules is not None
    model.objective = modules(spec.model.embed_dim, PAIRS).to(META)
    optimizer = build_optimizer(model.train(), spec.optimizer, "ndim")
    encoder: nn.Module = GradientCache(model, 2, False) if cached else PairEncoder(model, 2)
    images = torch.zeros(2, PAIRS, 3, 32, 32, dtype=torch.uint8, device=META)
    tokens = torch.ones(2, PAIRS, 8, dtype=torch.long, device=META)
    members = torch.arange(PAIRS, device=META)
    losses = training_step(encoder, model, optimizer, images, tokens, spec, 1e-3, members)
    assert {value.device for value in losses.values()} == {META}
    assert losses.keys() == {"loss", "mmcl", "ssl", "clusters"}


@pytest.mark.usefixtures("without_what_meta_lacks")
def test_an_evaluation_needs_nothing_from_the_cpu() -> None:
    model = build_model(run_spec().model, 0, "fp32").to(META).eval()
    prompts = PromptSet(["banana", "a dog"], ["a photo of a {}.".format], "keep_eot")
    classifier = prompts.classifier(model, META)
    assert (classifier.device, classifier.shape) == (META, (32, 2))
    images = torch.zeros(5, 32, 32, 3, dtype=torch.uint8, device=META)
    classes = predict(model, images, classifier)
    assert (classes.device, classes.shape) == (META, (5,))
