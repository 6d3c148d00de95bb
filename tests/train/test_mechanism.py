"""Objectives, defences and views of the mechanism's experiments and of PAR, against their formulas
in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data.keyed import keyed_rng
from repro.train.defences import DEFENCES, reset_temperature
from repro.train.fresh_head import FRESH_HEAD, Heads
from repro.train.model import build_model
from repro.train.objectives import OBJECTIVES, Batch
from repro.train.par import par, push
from repro.train.views.image import IMAGE_VIEWS
from repro.train.views.text import shuffled
from tests.support.short_run import defended, run, run_spec

SCALE = torch.tensor(14.0, dtype=torch.float64)


def unit(seed: int, count: int = 2) -> Tensor:
    """Two views of six embeddings of width 5."""
    values = torch.randn(count, 6, 5, generator=torch.Generator().manual_seed(seed)).double()
    return F.normalize(values, dim=-1).requires_grad_()


def batch(**changes: Any) -> Batch:
    return Batch(**({"images": unit(0), "texts": unit(1), "scale": SCALE} | changes), members=None)


def entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy whose answers are the diagonal, from its definition."""
    return (torch.logsumexp(logits, dim=1) - logits.diagonal()).mean()


def mmcl(images: Tensor, texts: Tensor) -> Tensor:
    logits = SCALE * images @ texts.T
    return (entropy(logits) + entropy(logits.T)) / 2


def test_parts_of_mmcl_and_ssl_are_their_formulas() -> None:
    pairs = batch(start=None)
    images, texts = pairs.images, pairs.texts
    plain = mmcl(images[0], texts[0])
    image_ssl = entropy(SCALE * images[0] @ images[1].T)
    text_ssl = entropy(SCALE * texts[0] @ texts[1].T)
    expected = {
        "two_views": plain + mmcl(images[1], texts[1]),
        "image_ssl": plain + image_ssl / 2,
        "text_ssl": plain + text_ssl / 2,
        "mmcl_ssl": plain + (image_ssl + text_ssl) / 2,
        "ssl_unused": plain,
    }
    for name, value in expected.items():
        total = OBJECTIVES[name](1.0).total(pairs, None)["loss"]  # type: ignore[index]
        torch.testing.assert_close(total, value)


def test_unused_ssl_is_computed_and_has_no_gradient() -> None:
    pairs = batch(start=None)
    parts = OBJECTIVES["ssl_unused"](1.0).total(pairs, None)
    assert parts["ssl"] > 0
    parts["loss"].backward()
    assert pairs.images.grad is not None and not pairs.images.grad[1].any()
    assert pairs.images.grad[0].any()


def test_new_heads_leave_the_contrastive_term_alone() -> None:
    heads, pairs = Heads(5).double(), batch(start=None)
    parts = FRESH_HEAD.total(pairs, heads)
    torch.testing.assert_close(parts["mmcl"], mmcl(pairs.images[0], pairs.texts[0]))

    def project(head: torch.nn.Module, views: Tensor) -> Tensor:
        out = head(views)
        return out / out.norm(dim=-1, keepdim=True)

    images, texts = project(heads.image, pairs.images), project(heads.text, pairs.texts)
    ssl = (entropy(SCALE * images[0] @ images[1].T) + entropy(SCALE * texts[0] @ texts[1].T)) / 2
    torch.testing.assert_close(parts["ssl"], ssl)


def test_par_pushes_up_to_its_threshold_and_not_at_the_start() -> None:
    start = (unit(2).detach(), unit(3).detach())
    pairs = batch(start=start)
    scale = SCALE.clone().requires_grad_()
    pairs = batch(start=start, scale=scale)
    distances = [
        ((now[0] - then[0]) ** 2).sum(dim=1).mean()
        for now, then in zip((pairs.images, pairs.texts), start, strict=True)
    ]
    losses = par(4.0).total(pairs, None)
    expected = mmcl(pairs.images[0], pairs.texts[0]) - sum(distances) / 2
    torch.testing.assert_close(losses["loss"], expected)

    # The temperature does not train.
    losses["loss"].backward()
    assert scale.grad is None

    # Beyond the threshold and at the start itself there is no push.
    for then, threshold in ((start[0][0], 1e-3), (pairs.images[0].detach(), 4.0)):
        now = pairs.images.detach()[0].clone().requires_grad_()
        push(now, then, threshold).backward()
        assert now.grad is not None and not now.grad.any()


def test_the_temperature_is_reset_and_nothing_else() -> None:
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    reset_temperature(model, {}, 0)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert changed in ([], ["logit_scale"])


@pytest.mark.parametrize("name", sorted(IMAGE_VIEWS))
def test_an_image_view_is_a_function_of_its_draws(name: str) -> None:
    """A rank's share of the draws gives its share of the images."""
    view, rng = IMAGE_VIEWS[name], keyed_rng("images")
    images = torch.from_numpy(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8))
    draws = view.draw(6, keyed_rng("draws"))
    changed = view.apply(images, draws)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert not torch.equal(changed, images)
    assert torch.equal(view.apply(images[2:5], draws[2:5]), changed[2:5])


def test_a_crop_of_everything_with_factors_of_one_is_the_image() -> None:
    images = torch.arange(3 * 32 * 32).remainder(256).to(torch.uint8).reshape(1, 3, 32, 32)
    whole = np.array([[1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    changed = IMAGE_VIEWS["crop_and_colour"].apply(images, whole)
    assert (changed.int() - images.int()).abs().max() <= 1


def test_the_light_view_of_par_only_brightens_and_erases_little() -> None:
    images = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    changed = IMAGE_VIEWS["noise_and_erasing"].apply(
        images, IMAGE_VIEWS["noise_and_erasing"].draw(200, keyed_rng("light"))
    )
    erased = (changed == 0).all(dim=1).sum(dim=(1, 2))
    assert (changed[(changed != 0)] >= 100).all()
    assert 70 < (erased > 0).sum() < 130 and erased.max() <= 12
    noisy = (changed > 100).any(dim=1).sum(dim=(1, 2)) > 0
    assert 70 < noisy.sum() < 130


def test_shuffled_captions_have_words_of_the_caption_alone() -> None:
    caption = "a photo of a calendar check"
    views = {shuffled(caption, keyed_rng("words", i), {}) for i in range(50)}
    assert len(views) > 30
    for view in views:
        assert view and set(view.split()) <= set(caption.split())
    assert shuffled("eject", keyed_rng("words"), {}) == "eject"
    assert shuffled("", keyed_rng("words"), {}) == ""


@pytest.mark.parametrize("name", ["crop_view", "word_view", "fresh_head", "par"])
def test_each_defence_trains_to_other_weights(name: str, tmp_path: Path) -> None:
    assert name in DEFENCES
    plain = run(tmp_path / "plain", run_spec())
    other = run(tmp_path / name, defended(run_spec(), name))
    differ = any(
        not torch.equal(value, other.state_dict()[key]) for key, value in plain.state_dict().items()
    )
    # The short run's pairs make their own views, so that views alone change nothing there.
    assert differ == (name not in ("crop_view", "word_view"))
