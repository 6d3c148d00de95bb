"""Arithmetic of a run: its flags, whatever ran before, and no operand left on the CPU."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.train.build import build_model, build_optimizer
from repro.train.defences import objective_of
from repro.train.gradient_cache import GradientCache
from repro.train.model import PairEncoder, normalise
from repro.train.step import training_step
from tests.support.short_run import defended, no_outcomes, run, run_spec, run_to_outcome


def flags() -> tuple[bool, bool, bool, bool]:
    """TF32 of matrix products and of convolutions, repeatability, choice by trial."""
    products = torch.backends.cuda.matmul.allow_tf32
    convolutions = torch.backends.cudnn.allow_tf32
    repeatable = torch.are_deterministic_algorithms_enabled()
    return products, convolutions, repeatable, torch.backends.cudnn.benchmark


def set_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture(autouse=True)
def _flags_restored() -> Iterator[None]:
    """Other tests find the flags as they were."""
    products, convolutions, repeatable, benchmark = flags()
    yield
    set_tf32(products, convolutions)
    torch.use_deterministic_algorithms(repeatable)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [
        ("fp32", False),
        ("tf32", True),
        ("bf16", True),
    ],
)
def test_the_start_evaluation_computes_like_those_after_training(
    precision: str, tf32: bool, tmp_path: Path
) -> None:
    """Flags as another run of the process would leave them, and as a fresh process has them."""
    base = run_spec(optimizer_state="fresh")
    spec = base.model_copy(update={"precision": precision})
    seen = []

    def evaluate(*arguments: Any) -> Any:
        products, convolutions, *_ = flags()
        seen.append((products, convolutions))
        return no_outcomes(*arguments)

    set_tf32(not tf32, not tf32)
    run(tmp_path / "after another", spec, evaluate)
    set_tf32(products=False, convolutions=True)
    run(tmp_path / "fresh", spec, evaluate)
    assert seen == [(tf32, tf32)] * 10


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_is_repeatable_or_fast_and_says_which(deterministic: bool, tmp_path: Path) -> None:
    spec = run_spec().model_copy(update={"deterministic": deterministic})
    torch.use_deterministic_algorithms(not deterministic)
    _, outcome = run_to_outcome(tmp_path / "run", spec)
    _, _, repeatable, by_trial = flags()
    assert repeatable == deterministic
    assert by_trial != deterministic
    assert outcome["deterministic"] == deterministic


class Recorded(TorchDispatchMode):
    """The names of all operations within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        self.operations.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def test_pixels_are_normalised_by_constants_that_the_device_has_already() -> None:
    """No tensor is made or copied after the first batch, in training as in inference mode."""
    for device in ("cpu", "meta"):
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device=device)
        with torch.inference_mode():
            normalise(images)
        with Recorded() as recorded:
            normalised = normalise(images)
        assert normalised.device.type == device
        assert recorded.operations == ["sub", "div", "clone"]


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


def zeros_of_images(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.uint8, device=META)


@pytest.mark.usefixtures("without_what_meta_lacks")
@pytest.mark.parametrize("cached", [False, True])
def test_a_step_needs_nothing_from_the_cpu(cached: bool) -> None:
    """With a defence that has modules of its own."""
    base = run_spec(optimizer_state="fresh")
    spec = defended(base, "fresh_head")
    model = build_model(spec.model, 0, "fp32").to(META)
    modules = objective_of(spec).modules
    assert modules is not None
    model.objective = modules(spec.model.embed_dim).to(META)
    model.train()
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    encoder: nn.Module = PairEncoder(model, 2)
    if cached:
        encoder = GradientCache(model, 2, compiled=False)

    images = zeros_of_images(2, PAIRS, 3, 32, 32)
    tokens = torch.ones(2, PAIRS, 8, dtype=torch.long, device=META)
    losses = training_step(encoder, model, optimizer, images, tokens, spec, 1e-3)

    assert losses.keys() == {"loss", "mmcl", "ssl"}
    assert {value.device for value in losses.values()} == {META}
