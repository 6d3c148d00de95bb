"""The dual encoder: open_clip's classes, trimming, parameter and BatchNorm groups, compilation."""

import copy
from functools import partial

import pytest
import torch
from open_clip import create_model
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import AttentionPool2d
from torch.utils.flop_counter import FlopCounterMode

from repro.profile import load_profile
from repro.spec import ModelSpec, VitConfig
from repro.train import loop
from repro.train.build import OneQueryPool, build_model, build_optimizer, has_weight_decay
from repro.train.model import PairEncoder, clamp_logit_scale, encode_text, normalise
from repro.train.step import training_step
from repro.train.views.tokens import tokenize, trim
from tests.support.short_run import CPU, run_spec, scheduled

CAPTIONS = [
    "a photo of a banana.",
    "x",
    "the quick brown fox jumps over the lazy dog, again and again",
    "a " * 200,
]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_profile("smoke").pretrain.model


@pytest.fixture
def model(spec: ModelSpec) -> CLIP:
    return build_model(spec, 0, "fp32")


def images(count: int, size: int = 32) -> torch.Tensor:
    generator, shape = torch.Generator().manual_seed(1), (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.slow
def test_paper_model_is_rn50_quickgelu() -> None:
    """open_clip's names and shapes; 102,007,137 parameters, 38,316,896 of them visual."""
    ours = build_model(load_profile("paper").pretrain.model, 0, "fp32")
    theirs = create_model("RN50-quickgelu", pretrained=None)
    shapes = [{n: p.shape for n, p in of.named_parameters()} for of in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == 102_007_137
    assert sum(p.numel() for p in ours.visual.parameters()) == 38_316_896
    tokens = tokenize(CAPTIONS, "keep_eot").long()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = theirs.eval().encode_text(tokens, normalize=True)
        torch.testing.assert_close(encode_text(ours.eval(), tokens), expected, rtol=0, atol=1e-6)
        gelu = create_model("RN50", pretrained=None)
        gelu.load_state_dict(theirs.state_dict())
        other = gelu.eval().encode_text(tokens, normalize=True)
        assert (other - expected).abs().max() > 1e-3  # loads, and is another model


def test_initialisation_follows_the_seed_and_no_global_generator(spec: ModelSpec) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (
        build_model(spec, seed, "fp32").token_embedding.weight for seed in (3, 3, 4)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_authors_initialisation_rounds_what_their_loader_rounds(spec: ModelSpec) -> None:
    """All but embeddings and temperature is a float16 number; these four are as drawn."""
    drawn = dict(build_model(spec, 0, "fp32").named_parameters())
    rounded = dict(build_model(spec, 0, "fp16_rounded").named_parameters())
    kept = {"token_embedding.weight", "positional_embedding", "logit_scale"}
    kept |= {"visual.attnpool.positional_embedding"}
    for name, parameter in rounded.items():
        expected = drawn[name] if name in kept else drawn[name].half().float()
        assert torch.equal(parameter, expected), name
    changed = {name for name in rounded if not torch.equal(rounded[name], drawn[name])}
    assert {"text_projection", "visual.conv1.weight", "visual.attnpool.q_proj.weight"} < changed
    assert "transformer.resblocks.0.attn.in_proj_weight" in changed


@pytest.fixture
def vit(spec: ModelSpec) -> ModelSpec:
    vision = VitConfig(image_size=32, patch_size=8, layers=2, width=64, head_width=32)
    return spec.model_copy(update={"vision": vision})


def test_a_vision_transformer_is_open_clips(vit: ModelSpec) -> None:
    """Weights and features; the authors' rounding takes its projection too."""
    torch.manual_seed(3)
    text = CLIPTextCfg(**vit.text.model_dump())
    towers = CLIPVisionCfg(image_size=32, patch_size=8, layers=2, width=64, head_width=32)
    theirs = CLIP(vit.embed_dim, towers, text, quick_gelu=vit.quick_gelu)
    ours = build_model(vit, 3, "fp32")
    for (name, own), (_, other) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert torch.equal(own, other), name
    features = ours.encode_image(normalise(images(4)), normalize=True)
    torch.testing.assert_close(features, theirs.encode_image(normalise(images(4)), normalize=True))
    rounded = build_model(vit, 3, "fp16_rounded").visual.proj
    assert torch.equal(rounded, ours.visual.proj.half().float())
    assert not torch.equal(rounded, ours.visual.proj)


def test_without_batchnorm_groups_change_nothing(vit: ModelSpec) -> None:
    model = build_model(vit, 0, "fp32")
    tokens = trim(tokenize(["a", "b c"] * 4, "keep_eot").long())[None]
    grouped, whole = (PairEncoder(model, groups)(images(8)[None], tokens)[0] for groups in (4, 1))
    torch.testing.assert_close(grouped, whole, rtol=0, atol=1e-6)


def test_one_query_pools_as_open_clips_fifty_do() -> None:
    """Features and every gradient; the pool's queries alone are fewer."""
    torch.manual_seed(0)
    theirs = AttentionPool2d(7, 64, 4, 32)
    ours = copy.deepcopy(theirs)
    ours.__class__ = OneQueryPool
    pooled = []
    for pool in (theirs, ours):
        maps = torch.rand(3, 64, 7, 7, generator=torch.Generator().manual_seed(1))
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            features = pool(maps)
        features.square().sum().backward()
        gradients = [weight.grad for weight in pool.parameters()]
        pooled.append((counter.get_total_flops(), features, maps.grad, *gradients))
    (flops, *expected), (fewer, *found) = pooled
    assert fewer < 0.7 * flops
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-7)


def test_trimmed_text_encoding_equals_open_clips(model: CLIP) -> None:
    """With a caption of all 77 tokens, and without it."""
    for captions in (CAPTIONS, CAPTIONS[:3]):
        tokens = tokenize(captions, "keep_eot").long()
        assert (trim(tokens).shape[1] < 20) == (len(captions) == 3)
        with torch.no_grad():
            trimmed = encode_text(model, trim(tokens))
            whole = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(trimmed, whole, rtol=0, atol=1e-6)


def test_weight_decay_rules_differ_on_embeddings_and_on_the_shortcut_gain(model: CLIP) -> None:
    """The authors' names miss `downsample.1.weight`, a BatchNorm gain of one dimension."""
    by_names = {n for n, p in model.named_parameters() if has_weight_decay(n, p, "names")}
    by_ndim = {n for n, p in model.named_parameters() if has_weight_decay(n, p, "ndim")}
    assert by_names - by_ndim == {f"visual.layer{i}.0.downsample.1.weight" for i in (1, 2, 3, 4)}
    assert by_ndim <= by_names
    assert "logit_scale" not in by_names and "positional_embedding" in by_names


def test_optimizer_holds_every_parameter_once(model: CLIP) -> None:
    groups = build_optimizer(model, load_profile("smoke").pretrain.optimizer, "names").param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("value", "expected"), [(-1.0, 0.0), (3.0, 3.0), (4.6052, 4.6052), (9.0, 4.6052)]
)
def test_logit_scale_is_clamped(model: CLIP, value: float, expected: float) -> None:
    with torch.no_grad():
        model.logit_scale.fill_(value)
    clamp_logit_scale(model)
    assert model.logit_scale.item() == pytest.approx(expected)


def test_batchnorm_sees_clean_and_augmented_views_of_its_group_together(spec: ModelSpec) -> None:
    """Two groups are two passes over [clean, augmented], and keep the first's statistics."""
    grouped, single = build_model(spec, 0, "fp32"), build_model(spec, 0, "fp32")
    pixels = torch.stack([images(8), images(8).flip(-1)])  # (2, 8, 3, 32, 32)
    tokens = trim(tokenize(["a", "b c"] * 4, "keep_eot").long()).expand(2, -1, -1)
    together, _, _ = PairEncoder(grouped, 2)(pixels, tokens)
    first, _, _ = PairEncoder(single, 1)(pixels[:, :4], tokens[:, :4])
    statistics = {n: b.clone() for n, b in single.named_buffers() if "running" in n}
    second, _, _ = PairEncoder(single, 1)(pixels[:, 4:], tokens[:, 4:])
    torch.testing.assert_close(together, torch.cat([first, second], dim=1), rtol=0, atol=1e-6)
    for name, buffer in grouped.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, statistics[name])


def losses_of(loss: str, parts: int, compiled: bool) -> list[float]:
    """Losses of steps on captions of several lengths, in two groups of BatchNorm."""
    spec = scheduled(run_spec(optimizer_state="fresh"), norm_batch_size=3)
    spec = spec.model_copy(update={"compile": compiled, "loss": loss, "text_parts": parts})
    model = build_model(spec.model, 0, "fp32").train()
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    encoder, losses = loop.build_encoder(model, spec, CPU), []
    for length in (8, 6, 11):
        generator = torch.Generator().manual_seed(length)
        shape = (spec.num_views, 6)
        pixels = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator).to(torch.uint8)
        tokens = torch.randint(1, 999, (*shape, length), generator=generator)
        for pair, end in enumerate(torch.randint(1, length, (6,), generator=generator)):
            tokens[:, pair, end] = 49407
        parts_of = training_step(encoder, model, optimizer, pixels, tokens, spec, 1e-3)
        losses.append(parts_of["loss"].item())
    return losses


@pytest.mark.slow
def test_compiled_steps_have_the_losses_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both objectives in one process; test_compiled_lengths.py counts the graphs."""
    monkeypatch.setattr(loop, "needs_cache", lambda *_: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for loss in ("mmcl", "mmcl_ssl"):
        plain, compiled = (losses_of(loss, 3, choice) for choice in (False, True))
        assert compiled == pytest.approx(plain, rel=1e-4)
    assert torch._dynamo.config.fail_on_recompile_limit_hit
