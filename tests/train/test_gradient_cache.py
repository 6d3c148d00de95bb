"""The gradient cache: equal to the plain step, with the memory of one group."""

from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from repro.profile import load_profile, pretrain_runs
from repro.spec import RunSpec
from repro.train import loop
from repro.train import model as model_module
from repro.train.build import build_model, build_optimizer
from repro.train.defences import objective_of
from repro.train.gradient_cache import GradientCache, needs_cache
from repro.train.model import PairEncoder
from repro.train.process import distributed
from repro.train.step import training_step
from tests.support.ranks import on_ranks
from tests.support.short_run import (
    CPU,
    Pairs,
    assert_equal_models,
    defended,
    run,
    run_spec,
    scheduled,
)

GROUPS, GROUP = 8, 4
CASES = [
    (loss, defence, gather, training)
    for loss, defence in (("mmcl", ""), ("mmcl_ssl", ""), ("mmcl_ssl", "fresh_head"))
    for gather in ("exact", "authors")
    for training in (True, False)
]
"""Objective, defence with modules of its own, gather, and the mode of BatchNorm."""


def specification(loss: str, defence: str, gather: str) -> RunSpec:
    spec = run_spec(gather=gather, optimizer_state="fresh")
    spec = spec.model_copy(update={"loss": loss})
    return defended(spec, defence) if defence else spec


def batch(views: int, pairs: int) -> tuple[Tensor, Tensor]:
    """This rank's pixels (V, b, 3, 32, 32) and tokens (V, b, 8) of so many pairs on all ranks."""
    generator = torch.Generator().manual_seed(5)
    shape = (views, pairs)
    images = torch.randint(0, 256, (*shape, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 999, (*shape, 8), generator=generator)

    def mine(whole: Tensor) -> Tensor:
        shares = whole.chunk(distributed.ranks(), dim=1)
        return shares[distributed.rank()]

    return mine(images), mine(tokens)


def stepped(spec: RunSpec, training: bool, cached: bool) -> tuple[CLIP, dict[str, Tensor]]:
    """A model after a step in float64 on eight groups of the global batch, and the losses."""
    model = build_model(spec.model, 0, "fp32").double()
    modules = objective_of(spec).modules
    if modules is not None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.objective = modules(spec.model.embed_dim).double()
    model.train(training)
    optimizer = build_optimizer(model, spec.optimizer, "ndim")

    groups = GROUPS // distributed.ranks()
    encoder: nn.Module = PairEncoder(model, groups)
    if distributed.ranks() > 1:
        encoder = DistributedDataParallel(encoder)
    if cached:
        encoder = GradientCache(model, groups, compiled=False)
    views = 1 if spec.loss == "mmcl" else 2
    images, tokens = batch(views, GROUPS * GROUP)
    losses = training_step(encoder, model, optimizer, images, tokens, spec, 1e-3)
    return model, losses


def both_steps(spec: RunSpec, training: bool) -> list[tuple[CLIP, dict[str, Tensor]]]:
    """The plain step and that with the cache, which draws no random number; pixels in float64."""
    statistics = [values.double() for values in model_module.pixel_statistics(CPU)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "pixel_statistics", lambda device: statistics)
        plain = stepped(spec, training, cached=False)
        state = torch.get_rng_state()
        cached = stepped(spec, training, cached=True)
        assert torch.equal(torch.get_rng_state(), state)
    return [plain, cached]


def assert_equal_gradients(one: CLIP, other: CLIP) -> None:
    """To a millionth of the largest number of each."""
    weights = dict(other.named_parameters())
    for name, weight in one.named_parameters():
        expected = weights[name]
        assert weight.grad is not None, name
        assert expected.grad is not None, name
        largest = expected.grad.abs().max().item() + 1e-12
        torch.testing.assert_close(
            weight.grad,
            expected.grad,
            rtol=0,
            atol=1e-6 * largest,
            msg=lambda text, name=name: name + text,
        )


def assert_cache_is_plain(loss: str, defence: str, gather: str, training: bool) -> None:
    """Losses, gradients, weights and BatchNorm's statistics and counters."""
    spec = specification(loss, defence, gather)
    (plain, expected), (cached, losses) = both_steps(spec, training)

    names = {"loss", *objective_of(spec).weights}
    assert losses.keys() == names
    assert expected.keys() == names
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-12, atol=0)
    assert_equal_gradients(cached, plain)

    groups = GROUPS // distributed.ranks()
    buffers = dict(plain.named_buffers())
    for name, one in cached.named_buffers():
        if distributed.rank() == 0:  # DDP hands rank 0's to the others before the next step
            torch.testing.assert_close(one, buffers[name], rtol=1e-12, atol=0)
        if "num_batches" in name:
            assert one.item() == (groups if training else 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eight_groups_one_after_another_give_the_plain_step(case: Any) -> None:
    assert_cache_is_plain(*case)


def all_cases() -> None:
    for case in CASES:
        assert_cache_is_plain(*case)


def test_on_two_ranks_too_the_cache_gives_the_plain_step_through_ddp() -> None:
    on_ranks(2, all_cases)


class LivingBytes(TorchDispatchMode):
    """The most bytes that tensors made within the block held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        made = result if isinstance(result, tuple | list) else [result]
        for tensor in made:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self.alive[storage._cdata] = (reference, storage.nbytes())

        for key, (reference, _) in list(self.alive.items()):
            if reference.expired():
                del self.alive[key]
        held = sum(size for _, size in self.alive.values())
        self.peak = max(self.peak, held)
        return result


def peak(groups: int, cached: bool) -> int:
    """Bytes of a step over so many groups, weights, moments and their gradients left out."""
    spec = run_spec(optimizer_state="fresh")
    model = build_model(spec.model, 0, "fp32").train()
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
    encoder: nn.Module = PairEncoder(model, groups)
    if cached:
        encoder = GradientCache(model, groups, compiled=False)
    images, tokens = batch(2, groups * GROUP)
    with LivingBytes() as living:
        training_step(encoder, model, optimizer, images, tokens, spec, 0.0)
    weights = sum(weight.nbytes for weight in model.parameters())
    return living.peak - weights


def test_memory_does_not_grow_with_the_number_of_groups() -> None:
    """Sixteen groups need but more features than two; the plain step several times as much."""
    features = 16 * GROUP * 2 * (2 * 32 * 4) * 8  # generously: features, gradients, logits
    two = peak(2, cached=True)
    sixteen = peak(16, cached=True)
    assert sixteen < 1.05 * two + features
    two = peak(2, cached=False)
    sixteen = peak(16, cached=False)
    assert sixteen > 3 * two


@pytest.mark.parametrize(
    ("groups", "gibibytes", "needed"),
    [
        (1, 1, False),
        (2, 80, True),
        (2, 141, False),
        (8, 80, True),
        (8, 512, False),
    ],
)
def test_the_cache_is_used_where_the_groups_of_a_rank_do_not_fit(
    groups: int, gibibytes: int, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 pairs of the paper keep 34 GiB: two groups fit an H200, eight a large host."""
    spec, *_ = pretrain_runs(load_profile("paper"), "cc3m", "mmcl")
    memory = gibibytes * 2**30
    monkeypatch.setattr("repro.train.gradient_cache._memory_bytes", lambda device: memory)
    assert needs_cache(spec, groups, CPU) == needed

    # A rank with another GPU does as rank 0: the cache and DDP would wait for each other.
    monkeypatch.setattr(distributed, "from_first", lambda value, device: not needed)
    as_rank_0 = not needed and groups > 1
    assert needs_cache(spec, groups, CPU) == as_rank_0


def test_a_loop_trains_as_without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = scheduled(run_spec(mode_after_evaluation="train"), norm_batch_size=2)
    plain = run(tmp_path / "plain", spec)
    build = loop.build_encoder
    used = []

    def noted(*arguments: Any) -> nn.Module:
        encoder = build(*arguments)
        used.append(encoder)
        return encoder

    monkeypatch.setattr(loop, "build_encoder", noted)
    monkeypatch.setattr(loop, "needs_cache", lambda spec, groups, device: groups == 3)
    cached = run(tmp_path / "cached", spec, pairs=Pairs())
    assert isinstance(used[0], GradientCache)
    assert_equal_models(cached, plain, 2e-3)  # Adam divides rounding by rounding
