"""The compiled encoder over captions as a run of days meets them: twelve lengths, among them that of
the model's context, and parts of equal length.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from repro.spec import RunSpec
from repro.train import loop
from repro.train.build import build_model, build_optimizer
from repro.train.model import encode_text
from repro.train.process.stopping import Interrupted
from repro.train.step import encode_pairs, training_step
from repro.train.views.tokens import END
from tests.support.short_run import CPU, assert_equal_models, run, run_spec, scheduled, signal_at

PAIRS = 8
WHOLE = 77
"""Tokens of the context, of which captions of the web fill all now and then."""
LENGTHS = (9, 12, 7, 30, WHOLE, 8, 15, WHOLE, 21, 11, 40, 5)


def spec_of(loss: str, parts: int) -> RunSpec:
    """Four groups of BatchNorm, compiled."""
    spec = run_spec(optimizer_state="fresh")
    spec = scheduled(spec, global_batch_size=PAIRS, norm_batch_size=2)
    return spec.model_copy(update={"compile": True, "loss": loss, "text_parts": parts})


def batch(spec: RunSpec, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions whose longest has the number's length; in every third batch all have."""
    generator = torch.Generator().manual_seed(number)
    longest = LENGTHS[number]
    shape = (spec.num_views, PAIRS)
    images = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator)
    tokens = torch.randint(1, 999, (*shape, longest), generator=generator)
    ends = torch.randint(2, longest, shape, generator=generator)
    ends[0, 0] = longest - 1
    if number % 3 == 0:
        ends[:] = longest - 1
    tokens.scatter_(2, ends[..., None], END)
    return images.to(torch.uint8), tokens


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Graphs that torch.compile makes from here on, which run as they are.

    As Inductor on a GPU, whose attention wants it, the backend asks of each length whether it is a
    multiple of 8, and so makes the answer a condition of the graph.
    """
    made: list[torch.fx.GraphModule] = []

    def traced(module: torch.fx.GraphModule, inputs: Any) -> Any:
        made.append(module)
        for node in module.graph.nodes:
            value = node.meta.get("example_value")
            if node.op == "placeholder" and isinstance(value, torch.SymInt):
                bool(value % 8 == 0)
        return module.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    return made


def train(spec: RunSpec, numbers: range) -> None:
    """Steps of a new model on the batches of these numbers."""
    model = build_model(spec.model, 0, "fp32").train()
    assert model.context_length == WHOLE
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    encoder = loop.build_encoder(model, spec, CPU)
    for number in numbers:
        images, tokens = batch(spec, number)
        training_step(encoder, model, optimizer, images, tokens, spec, 1e-3)


@pytest.mark.parametrize(
    ("parts", "cached", "most"),
    [
        (1, False, 1),
        (4, False, 1),
        (4, True, 3),
    ],
)
def test_one_compilation_serves_all_lengths_and_all_runs_of_a_process(
    parts: int,
    cached: bool,
    most: int,
    graphs: list[torch.fx.GraphModule],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both numbers of views; the runs after them compile nothing. The gradient cache has a graph
    for the forward pass alone, for the first group and for the others.
    """
    monkeypatch.setattr(loop, "needs_cache", lambda *_: cached)
    for loss in ("mmcl", "mmcl_ssl"):
        graphs.clear()
        train(spec_of(loss, parts), range(len(LENGTHS)))
        assert 0 < len(graphs) <= most

    graphs.clear()
    for loss in ("mmcl", "ssl", "mmcl_ssl"):
        train(spec_of(loss, parts), range(2))
    assert not graphs


def test_a_compiled_run_that_is_stopped_ends_with_the_bits_of_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions in parts; the second attempt compiles anew, as another process does."""
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    spec = run_spec(optimizer_state="fresh")
    spec = spec.model_copy(update={"compile": True, "text_parts": 3})
    torch._dynamo.reset()
    whole = run(tmp_path / "whole", spec)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", spec, emit=signal_at(3))
    torch._dynamo.reset()
    resumed = run(tmp_path / "cut", spec)
    assert_equal_models(whole, resumed, 0)


@pytest.mark.parametrize("parts", [1, 4])
def test_ddp_does_not_cut_the_compiled_encoder(
    parts: int, graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default torch cuts what DDP calls into a graph for each 25 MB, of which the first has 1:
    the embedding of the tokens alone has more.
    """
    monkeypatch.setattr(loop.distributed, "ranks", lambda: 2)
    monkeypatch.setattr(loop, "needs_cache", lambda *_: False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        spec = spec_of("mmcl", parts)
        model = build_model(spec.model, 0, "fp32").train()
        encoder = loop.build_encoder(model, spec, CPU)
        assert isinstance(encoder, DistributedDataParallel)
        for number in range(3):
            encode_pairs(spec, encoder, *batch(spec, number))
    finally:
        dist.destroy_process_group()
    assert len(graphs) == 1


def test_causal_attention_says_so_and_takes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all blocks but the last, whose mask hides what follows the end tokens."""
    told: list[tuple[bool, bool]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def noted(*parts: Any) -> torch.Tensor:
        _, _, _, mask, _, is_causal, *_ = parts
        told.append((mask is None, is_causal))
        return attention(*parts)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    spec = spec_of("mmcl", 1)
    deeper = spec.model.text.model_copy(update={"layers": 3})
    deeper_model = spec.model.model_copy(update={"text": deeper})
    model = build_model(deeper_model, 0, "fp32")
    _, tokens = batch(spec, 0)
    encode_text(model, tokens[0])
    assert told == [(True, True), (True, True), (False, False)]


def test_a_graph_takes_no_constant_from_the_host(graphs: list[torch.fx.GraphModule]) -> None:
    """It would be copied to the device in every step: the statistics of pixels are buffers."""
    train(spec_of("mmcl", 1), range(1))
    (graph,) = graphs
    nodes = list(graph.graph.nodes)
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    assert any("pixel_mean" in name for name in inputs)
    for node in nodes:
        assert node.op != "get_attr"
        assert node.target is not torch.tensor
