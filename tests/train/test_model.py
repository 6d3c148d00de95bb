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
from repro.train.views.tokens import END, tokenize, trim
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
    generator = torch.Generator().manual_seed(1)
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def eight_captions() -> torch.Tensor:
    """Their tokens, trimmed."""
    tokens = tokenize(["a", "b c"] * 4, "keep_eot")
    return trim(tokens.long())


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Shapes of the weights by name."""
    return {name: weight.shape for name, weight in module.named_parameters()}


def count_of(module: torch.nn.Module) -> int:
    """Weights in all parameters."""
    return sum(weight.numel() for weight in module.parameters())


def test_paper_model_is_rn50_quickgelu() -> None:
    """open_clip's names and shapes; 102,007,137 parameters, 38,316,896 of them visual."""
    spec = load_profile("paper").pretrain.model
    ours = build_model(spec, 0, "fp32").eval()
    theirs = create_model("RN50-quickgelu", pretrained=None).eval()
    assert shapes(ours) == shapes(theirs)
    assert count_of(ours) == 102_007_137
    assert count_of(ours.visual) == 38_316_896

    gelu = create_model("RN50", pretrained=None).eval()
    ours.load_state_dict(theirs.state_dict())
    gelu.load_state_dict(theirs.state_dict())
    tokens = tokenize(CAPTIONS, "keep_eot").long()
    with torch.no_grad():
        expected = theirs.encode_text(tokens, normalize=True)
        found = encode_text(ours, tokens)
        other = gelu.encode_text(tokens, normalize=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (other - expected).abs().max() > 1e-3  # loads, and is another model


def test_initialisation_follows_the_seed_and_no_global_generator(spec: ModelSpec) -> None:
    before = torch.random.get_rng_state()
    models = [build_model(spec, seed, "fp32") for seed in (3, 3, 4)]
    one, same, other = (model.token_embedding.weight for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_authors_initialisation_rounds_what_their_loader_rounds(spec: ModelSpec) -> None:
    """All but embeddings and temperature is a float16 number; these four are as drawn."""
    drawn = dict(build_model(spec, 0, "fp32").named_parameters())
    rounded = dict(build_model(spec, 0, "fp16_rounded").named_parameters())
    kept = {
        "token_embedding.weight",
        "positional_embedding",
        "logit_scale",
        "visual.attnpool.positional_embedding",
    }
    changed = set()
    for name, parameter in rounded.items():
        before = drawn[name]
        expected = before if name in kept else before.half().float()
        assert torch.equal(parameter, expected), name
        if not torch.equal(parameter, before):
            changed.add(name)

    assert {"text_projection", "visual.conv1.weight", "visual.attnpool.q_proj.weight"} < changed
    assert "transformer.resblocks.0.attn.in_proj_weight" in changed


TOWER = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
"""A small vision transformer."""


@pytest.fixture
def vit(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"vision": VitConfig(**TOWER)})


def test_a_vision_transformer_is_open_clips(vit: ModelSpec) -> None:
    """Weights and features; the authors' rounding takes its projection too."""
    torch.manual_seed(3)
    text = CLIPTextCfg(**vit.text.model_dump())
    theirs = CLIP(vit.embed_dim, CLIPVisionCfg(**TOWER), text, quick_gelu=vit.quick_gelu)
    ours = build_model(vit, 3, "fp32")
    expected = theirs.state_dict()
    found = ours.state_dict()
    assert list(found) == list(expected)
    for name, own in found.items():
        assert torch.equal(own, expected[name]), name

    pixels = normalise(images(4))
    features = ours.encode_image(pixels, normalize=True)
    of_theirs = theirs.encode_image(pixels, normalize=True)
    torch.testing.assert_close(features, of_theirs)
    projection = ours.visual.proj
    rounded = build_model(vit, 3, "fp16_rounded").visual.proj
    assert torch.equal(rounded, projection.half().float())
    assert not torch.equal(rounded, projection)


def test_without_batchnorm_groups_change_nothing(vit: ModelSpec) -> None:
    model = build_model(vit, 0, "fp32")
    pixels = images(8)[None]
    tokens = eight_captions()[None]
    in_groups = PairEncoder(model, norm_groups=4)
    in_one = PairEncoder(model, norm_groups=1)
    grouped, _, _ = in_groups(pixels, tokens)
    whole, _, _ = in_one(pixels, tokens)
    torch.testing.assert_close(grouped, whole, rtol=0, atol=1e-6)


def pooled(pool: AttentionPool2d) -> tuple[int, list[torch.Tensor | None]]:
    """FLOPs of a pass over random maps; features, and the gradients of maps and weights."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(3, 64, 7, 7, generator=generator)
    maps = maps.contiguous(memory_format=torch.channels_last)
    maps.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        features = pool(maps)
    features.square().sum().backward()
    gradients = [weight.grad for weight in pool.parameters()]
    return counter.get_total_flops(), [features, maps.grad, *gradients]


def test_one_query_pools_as_open_clips_fifty_do() -> None:
    """Features and every gradient; the pool's queries alone are fewer."""
    torch.manual_seed(0)
    theirs = AttentionPool2d(7, 64, 4, 32)
    ours = copy.deepcopy(theirs)
    ours.__class__ = OneQueryPool
    flops, expected = pooled(theirs)
    fewer, found = pooled(ours)
    assert fewer < 0.7 * flops
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-7)


def test_trimmed_text_encoding_equals_open_clips(model: CLIP) -> None:
    """With a caption of all 77 tokens, and without it."""
    for captions, is_short in ((CAPTIONS, False), (CAPTIONS[:3], True)):
        tokens = tokenize(captions, "keep_eot").long()
        trimmed = trim(tokens)
        assert (trimmed.shape[1] < 20) == is_short
        with torch.no_grad():
            found = encode_text(model, trimmed)
            whole = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_weight_decay_rules_differ_on_embeddings_and_on_the_shortcut_gain(model: CLIP) -> None:
    """The authors' names miss `downsample.1.weight`, a BatchNorm gain of one dimension."""
    by_names = set()
    by_ndim = set()
    for name, weight in model.named_parameters():
        if has_weight_decay(name, weight, "names"):
            by_names.add(name)
        if has_weight_decay(name, weight, "ndim"):
            by_ndim.add(name)

    gains = {f"visual.layer{i}.0.downsample.1.weight" for i in (1, 2, 3, 4)}
    assert by_names - by_ndim == gains
    assert by_ndim <= by_names
    assert "logit_scale" not in by_names
    assert "positional_embedding" in by_names


def test_optimizer_holds_every_parameter_once(model: CLIP) -> None:
    spec = load_profile("smoke").pretrain.optimizer
    groups = build_optimizer(model, spec, "names").param_groups
    held = sum(len(group["params"]) for group in groups)
    assert held == len(list(model.parameters()))
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1.0, 0.0),
        (3.0, 3.0),
        (4.6052, 4.6052),
        (9.0, 4.6052),
    ],
)
def test_logit_scale_is_clamped(model: CLIP, value: float, expected: float) -> None:
    with torch.no_grad():
        model.logit_scale.fill_(value)
    clamp_logit_scale(model)
    assert model.logit_scale.item() == pytest.approx(expected)


def test_batchnorm_sees_clean_and_augmented_views_of_its_group_together(spec: ModelSpec) -> None:
    """Two groups are two passes over [clean, augmented], and keep the first's statistics."""
    grouped = build_model(spec, 0, "fp32")
    single = build_model(spec, 0, "fp32")
    clean = images(8)
    augmented = clean.flip(-1)
    pixels = torch.stack([clean, augmented])  # (2, 8, 3, 32, 32)
    tokens = eight_captions().expand(2, -1, -1)

    two_groups = PairEncoder(grouped, norm_groups=2)
    one_group = PairEncoder(single, norm_groups=1)
    together, _, _ = two_groups(pixels, tokens)
    first, _, _ = one_group(pixels[:, :4], tokens[:, :4])
    after_first = copy.deepcopy(dict(single.named_buffers()))
    second, _, _ = one_group(pixels[:, 4:], tokens[:, 4:])

    in_turn = torch.cat([first, second], dim=1)
    torch.testing.assert_close(together, in_turn, rtol=0, atol=1e-6)
    for name, buffer in grouped.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, after_first[name])


def losses_of(loss: str, parts: int, compiled: bool) -> list[float]:
    """Losses of steps on captions of several lengths, in two groups of BatchNorm."""
    base = scheduled(run_spec(optimizer_state="fresh"), norm_batch_size=3)
    choices = {"compile": compiled, "loss": loss, "text_parts": parts}
    spec = base.model_copy(update=choices)
    model = build_model(spec.model, 0, "fp32").train()
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    encoder = loop.build_encoder(model, spec, CPU)
    shape = (spec.num_views, 6)
    losses = []
    for length in (8, 6, 11):
        generator = torch.Generator().manual_seed(length)
        values = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator)
        pixels = values.to(torch.uint8)
        tokens = torch.randint(1, 999, (*shape, length), generator=generator)
        ends = torch.randint(1, length, (6,), generator=generator)
        for pair, end in enumerate(ends):
            tokens[:, pair, end] = END

        found = training_step(encoder, model, optimizer, pixels, tokens, spec, 1e-3)
        losses.append(found["loss"].item())
    return losses


def test_compiled_steps_have_the_losses_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both objectives in one process; test_compiled_lengths.py counts the graphs."""
    monkeypatch.setattr(loop, "needs_cache", lambda *_: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for loss in ("mmcl", "mmcl_ssl"):
        plain = losses_of(loss, parts=3, compiled=False)
        compiled = losses_of(loss, parts=3, compiled=True)
        assert compiled == pytest.approx(plain, rel=1e-4)
    assert torch._dynamo.config.fail_on_recompile_limit_hit
