"""A step and an evaluation's forward passes on the device "meta", where an operand left on the CPU
is an error.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import predict
from repro.train import model as model_module
from repro.train.defences import objective_of
from repro.train.gradient_cache import GradientCache
from repro.train.model import PairEncoder, build_model, build_optimizer
from repro.train.step import training_step
from tests.support.short_run import defended, run_spec

META = torch.device("meta")
PAIRS = 8


@pytest.fixture(autouse=True)
def _without_what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's fused kernel and autocast know no meta tensors; the other kernel makes the same
    update.
    """
    original = torch.optim.AdamW

    def unfused(*arguments: Any, fused: bool, **options: Any) -> torch.optim.AdamW:
        return original(*arguments, **options)

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


def step(cached: bool, clusters: int) -> dict[str, torch.Tensor]:
    spec = run_spec(optimizer_state="fresh")
    if clusters:
        spec = defended(spec, "deep_clustering", clusters=clusters, weight=3.0)
    model = build_model(spec.model, 0, "fp32").to(META)
    members = None
    if (modules := objective_of(spec).modules) is not None:
        model.objective = modules(spec.model.embed_dim, PAIRS).to(META)
        members = torch.arange(PAIRS, device=META)
    optimizer = build_optimizer(model.train(), spec.optimizer, "ndim")
    encoder: nn.Module = GradientCache(model, 2, False) if cached else PairEncoder(model, 2)
    images = torch.zeros(2, PAIRS, 3, 32, 32, dtype=torch.uint8, device=META)
    tokens = torch.ones(2, PAIRS, 8, dtype=torch.long, device=META)
    return training_step(encoder, model, optimizer, images, tokens, spec, 1e-3, members)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("clusters", [0, 3])
def test_a_step_needs_nothing_from_the_cpu(cached: bool, clusters: int) -> None:
    losses = step(cached, clusters)
    assert {value.device for value in losses.values()} == {META}
    assert losses.keys() >= {"loss", "mmcl", "ssl"}


def test_an_operand_on_the_cpu_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    left = model_module.pixel_statistics(torch.device("cpu"))
    monkeypatch.setattr(model_module, "pixel_statistics", lambda device: left)
    with pytest.raises(RuntimeError, match="device"):
        step(cached=False, clusters=0)


def test_an_evaluation_needs_nothing_from_the_cpu() -> None:
    model = build_model(run_spec().model, 0, "fp32").to(META).eval()
    prompts = PromptSet(["banana", "a dog"], ["a photo of a {}.".format], "keep_eot")
    classifier = prompts.classifier(model, META)
    assert (classifier.device, classifier.shape) == (META, (32, 2))
    images = torch.zeros(5, 32, 32, 3, dtype=torch.uint8, device=META)
    classes = predict(model, images, classifier)
    assert (classes.device, classes.shape) == (META, (5,))
