"""The compiled encoder, traced and not optimised: few graphs, no constants copied in a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from repro.spec import RunSpec
from repro.train import loop
from repro.train.model import build_model, build_optimizer
from repro.train.step import training_step
from tests.support.short_run import CPU, run_spec

LENGTHS = (8, 6, 11)


def compiled_spec(loss: str, parts: int = 1) -> RunSpec:
    """Two groups of BatchNorm."""
    spec = run_spec(optimizer_state="fresh")
    schedule = spec.schedule.model_copy(update={"norm_batch_size": 3})
    return spec.model_copy(
        update={"compile": True, "loss": loss, "schedule": schedule, "text_parts": parts}
    )


def losses_of(spec: RunSpec) -> list[float]:
    """Losses of steps on captions of several lengths, by a model of its own."""
    model = build_model(spec.model, 0, "fp32").train()
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    encoder, losses = loop.build_encoder(model, spec, CPU), []
    for length in LENGTHS:
        generator = torch.Generator().manual_seed(length)
        shape = (spec.num_views, 6)
        images = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator)
        tokens = torch.randint(1, 999, (*shape, length), generator=generator)
        for pair, end in enumerate(torch.randint(1, length, (6,), generator=generator)):
            tokens[:, pair, end] = 49407
        pixels = images.to(torch.uint8)
        parts = training_step(encoder, model, optimizer, pixels, tokens, spec, 1e-3)
        losses.append(parts["loss"].item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cached", "parts", "most"), [(False, 1, 3), (True, 1, 8), (False, 3, 4), (True, 3, 8)]
)
def test_runs_of_both_objectives_in_one_process_stay_compiled(
    cached: bool, parts: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of each run; beyond torch's limit the rest of a process would run uncompiled."""
    graphs: list[torch.fx.GraphModule] = []

    def traced(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(loop, "needs_cache", lambda *_: cached)
    plain = [
        losses_of(compiled_spec(loss, parts).model_copy(update={"compile": False}))
        for loss in ("mmcl", "mmcl_ssl")
    ]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    for loss, expected in zip(("mmcl", "mmcl_ssl"), plain, strict=True):
        graphs.clear()
        assert losses_of(compiled_spec(loss, parts)) == pytest.approx(expected, rel=1e-4)
        assert 1 <= len(graphs) <= most
        called = {node.target for graph in graphs for node in graph.graph.nodes}
        assert torch.tensor not in called
    assert torch._dynamo.config.fail_on_recompile_limit_hit
