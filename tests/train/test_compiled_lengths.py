"""The compiled encoder over captions as a run of days meets them: twelve lengths, among them that of
the model's context, and parts of equal length.
"""

from functools import partial
from typing import Any

import pytest
import torch

from repro.spec import RunSpec
from repro.train import loop
from repro.train.model import build_model, build_optimizer
from repro.train.step import training_step
from tests.support.short_run import CPU, run_spec

PAIRS = 8
WHOLE = 77
"""Tokens of the context, of which captions of the web fill all now and then."""
LENGTHS = (9, 12, 7, 30, WHOLE, 8, 15, WHOLE, 21, 11, 40, 5)


def spec_of(loss: str, parts: int) -> RunSpec:
    """Four groups of BatchNorm, compiled."""
    spec = run_spec(optimizer_state="fresh")
    sizes = {"global_batch_size": PAIRS, "norm_batch_size": 2}
    schedule = spec.schedule.model_copy(update=sizes)
    return spec.model_copy(
        update={"compile": True, "loss": loss, "schedule": schedule, "text_parts": parts}
    )


def batch(spec: RunSpec, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions whose longest has the number's length; in every third batch all have."""
    generator, longest = torch.Generator().manual_seed(number), LENGTHS[number]
    shape = (spec.num_views, PAIRS)
    images = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator)
    tokens = torch.randint(1, 999, (*shape, longest), generator=generator)
    ends = torch.randint(2, longest, shape, generator=generator)
    ends[0, 0] = longest - 1
    if number % 3 == 0:
        ends[:] = longest - 1
    tokens.scatter_(2, ends[..., None], 49407)
    return images.to(torch.uint8), tokens


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "cached"), [(1, False), (4, True)])
def test_no_length_takes_a_process_beyond_the_limit_of_recompilations(
    parts: int, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both objectives one after the other; beyond the limit `build_encoder` has torch raise."""
    graphs: list[torch.fx.GraphModule] = []

    def traced(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(loop, "needs_cache", lambda *_: cached)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    counts = []
    for loss in ("mmcl", "mmcl_ssl"):
        spec = spec_of(loss, parts)
        model = build_model(spec.model, 0, "fp32").train()
        assert model.context_length == WHOLE
        optimizer = build_optimizer(model, spec.optimizer, "ndim")
        encoder = loop.build_encoder(model, spec, CPU)
        graphs.clear()
        for number in range(len(LENGTHS)):
            training_step(encoder, model, optimizer, *batch(spec, number), spec, 1e-3)
            counts.append(len(graphs))
    assert max(counts) <= 8
