"""The rates that `plan` reads are of the arithmetic of the runs, not of what torch begins with."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from repro.check import training
from repro.check.noise import FULL
from repro.plan.assumptions import arithmetic
from repro.plan.work import Tower
from repro.profile import load_profile, pretrain_runs


def flags() -> tuple[bool, ...]:
    """TF32 of products and convolutions, repeatability, choice by trial."""
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(autouse=True)
def _flags_restored() -> Iterator[None]:
    """Other tests find the flags as they were; here they are off at first."""
    before = flags()
    set_flags(False, False, False, False)
    yield
    set_flags(*before)


def set_flags(products: bool, convolutions: bool, repeatable: bool, by_trial: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.use_deterministic_algorithms(repeatable)
    torch.backends.cudnn.benchmark = by_trial


def test_each_profile_is_timed_in_its_own_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """`paper`: TF32, repeatable, eager; `paper_lean`: bfloat16, the fastest kernels, compiled,
    captions in parts. Steps of 2 and 1.25 ms tell the towers apart: of 6 and 1.2 GFLOP the text
    takes 0.9375 and 0.1875 ms, and 9 GFLOP of the image the rest.
    """
    timed: list[tuple[Any, ...]] = []

    class Trainee:
        def __init__(self, spec: Any, device: torch.device) -> None:
            self.spec = spec
            self.encoder = self
            self.compiled = False

        def compile(self) -> None:
            self.compiled = True

        def pairs_per_second(self, length: int, steps: int) -> float:
            spec = self.spec
            timed.append((spec.precision, *flags(), self.compiled, spec.text_parts))
            return 500.0 if length == FULL.length else 800.0

    def text_tower(model: object, tokens: int) -> Tower:
        return Tower(weights=0, flop=2_000_000_000 if tokens == FULL.length else 400_000_000)

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for name, stand_in in {
        "Trainee": Trainee,
        "batch": lambda spec, pairs, length, seed, device: length,
        "text_tower": text_tower,
        "image_tower": lambda model: Tower(weights=0, flop=3_000_000_000),
        "_images_per_second": lambda *_: 2000.0,
        "reset_peak": lambda device: None,
        "peak_bytes": lambda device: 36 * 10**9,
    }.items():
        monkeypatch.setattr(training, name, stand_in)
    monkeypatch.setattr(training, "FLOPS", flops := {})
    checks = list(training.speed(FULL))

    assert timed == [
        *[("tf32", True, True, True, False, False, 1)] * 2,
        *[("bf16", True, True, False, True, True, 4)] * 2,
    ]
    # Under the names by which the forecast looks for them.
    profiles = [pretrain_runs(load_profile(name))[0] for name in ("paper", "paper_lean")]
    assert list(flops) == [arithmetic(spec.precision, spec) for spec in profiles]
    for rates in flops.values():
        expected = {"image": 9e9 / 1.0625e-3, "text": 4.8e9 / 0.75e-3, "evaluation": 6e12}
        assert rates == pytest.approx(expected)
    # 36 GB are within the bound of TF32, and beyond that of bfloat16.
    of_memory = [check.passed for check in checks if "memory" in check.name]
    assert of_memory == [True, False]
