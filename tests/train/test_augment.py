"""Batched AutoAugment against torchvision's own, image by image, under the same draws."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from repro.data.keyed import keyed_rng
from repro.train.views.image import DRAW, POLICIES, auto_augment, draw_policies

SIGNED = ("ShearX", "Rotate", "Color", "Contrast", "Sharpness")


def some_images(count, size=64):
    """Smooth, noisy, flat and two-valued images in turn: equalisation and contrast have special
    cases for the last two.
    """
    rng = keyed_rng("images", count, size)
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] * rng.uniform(
        0.2, 2, (count, 1, 1, 3)
    )
    noise = rng.integers(0, 256, (count, size, size, 3))
    flat = np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3)), noise.shape)
    kinds = np.stack([ramp.clip(0, 255), noise, flat, np.where(noise > 250, 255, flat)])
    pixels = kinds[np.arange(count) % 4, np.arange(count)].astype(np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def torchvision_augment(image, draw, monkeypatch):
    """`v2.AutoAugment()` on one image, its random numbers replaced by the draw's."""
    policy, uniform, negative = draw.item()
    numbers = []
    for position, (name, probability, _) in enumerate(POLICIES[policy]):
        numbers.append(uniform[position])
        if uniform[position] <= probability and name in SIGNED:
            numbers.append(
                0.25 if negative[position] else 0.75
            )  # torchvision: negative at 0.5 and below
    remaining = iter(numbers)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_: torch.tensor(policy))
        patch.setattr(torch, "rand", lambda *_: torch.tensor(next(remaining), dtype=torch.float64))
        augmented = v2.AutoAugment()(image)
    assert next(remaining, None) is None
    return augmented


@pytest.mark.parametrize("size", [32, 64, pytest.param(224, marks=pytest.mark.slow)])
def test_batch_equals_torchvision_image_by_image(size, monkeypatch):
    """Every sub-policy with both operations on, in all four combinations of signs, and 28 ordinary
    draws.
    """
    signs = [(False, False), (False, True), (True, False), (True, True)]
    chosen = np.array(
        [(policy, (0.0, 0.0), sign) for policy in range(25) for sign in signs], dtype=DRAW
    )
    draws = np.concatenate([chosen, draw_policies(28, keyed_rng("draws"))])
    images = some_images(len(draws), size)
    expected = torch.stack(
        [
            torchvision_augment(image, draw, monkeypatch)
            for image, draw in zip(images, draws, strict=True)
        ]
    )
    assert torch.equal(auto_augment(images, draws), expected)


def test_slices_of_the_draws_give_slices_of_the_batch():
    """What ranks do: each augments its share under its share of the global draws."""
    images, draws = some_images(12), draw_policies(12, keyed_rng("slices"))
    whole = auto_augment(images, draws)
    assert torch.equal(
        torch.cat(
            [auto_augment(images[part], draws[part]) for part in (slice(0, 5), slice(5, 12))]
        ),
        whole,
    )


def test_images_are_left_as_they_are():
    images = some_images(8)
    before = images.clone()
    assert not torch.equal(auto_augment(images, draw_policies(8, keyed_rng("copy"))), before)
    assert torch.equal(images, before)


def test_draws_are_uniform_and_always_as_many():
    """25 sub-policies of 2,500 draws: 100 each, sd 9.8; signs: half of 5,000, sd 35.

    The generator ends at one state.
    """
    rng, other = keyed_rng("count"), keyed_rng("count")
    draws = draw_policies(2500, rng)
    assert np.abs(np.bincount(draws["policy"], minlength=25) - 100).max() < 50
    assert abs(int(draws["negative"].sum()) - 2500) < 180
    assert draws["uniform"].min() >= 0 and draws["uniform"].max() < 1
    other.integers(25, size=2500)
    other.random((2500, 2))
    other.random((2500, 2))
    assert rng.random() == other.random()


def test_inversion_by_hand():
    """Sub-policy 17 with only its second operation drawn: 1 - x, that is 255 - x."""
    image = torch.full((1, 3, 2, 2), 10, dtype=torch.uint8)
    draws = np.array([(17, (0.9, 0.5), (False, False))], dtype=DRAW)
    assert (auto_augment(image, draws) == 245).all()
