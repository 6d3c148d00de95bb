"""Batched AutoAugment against torchvision's own, image by image, under the same draws."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from repro.data.keyed import keyed_rng
from repro.train.views.image import DRAW, POLICIES, auto_augment, draw_policies

SIGNED = ("ShearX", "Rotate", "Color", "Contrast", "Sharpness")


def some_images(count, size=64):
    """Smooth, noisy, flat and two-valued images in turn: the last two are special cases."""
    rng = keyed_rng("images", count, size)
    steep = rng.uniform(0.2, 2, (count, 1, 1, 3))
    side = np.arange(size)
    slope = np.add.outer(side, side)
    ramp = slope[..., None] * steep
    noise = rng.integers(0, 256, (count, size, size, 3))
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    flat = np.broadcast_to(colours, noise.shape)
    two_valued = np.where(noise > 250, 255, flat)

    pixels = np.empty(noise.shape, np.uint8)
    for first, kind in enumerate([ramp.clip(0, 255), noise, flat, two_valued]):
        pixels[first::4] = kind[first::4]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def torchvision_augment(image, draw, monkeypatch):
    """`v2.AutoAugment()` on one image, its random numbers replaced by the draw's."""
    policy, uniform, negative = draw.item()
    numbers = []
    for position, (name, probability, _) in enumerate(POLICIES[policy]):
        numbers.append(uniform[position])
        if uniform[position] <= probability and name in SIGNED:
            # torchvision: negative at 0.5 and below
            numbers.append(0.25 if negative[position] else 0.75)
    remaining = iter(numbers)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_: torch.tensor(policy))
        patch.setattr(torch, "rand", lambda *_: torch.tensor(next(remaining), dtype=torch.float64))
        augmented = v2.AutoAugment()(image)
    assert next(remaining, None) is None
    return augmented


@pytest.mark.parametrize("size", [32, 64, 224])
def test_batch_equals_torchvision_image_by_image(size, monkeypatch):
    """Every sub-policy with both operations on, in four combinations of signs, and 28 draws."""
    both_on = (0.0, 0.0)
    signs = [(False, False), (False, True), (True, False), (True, True)]
    chosen = []
    for policy in range(25):
        for sign in signs:
            chosen.append((policy, both_on, sign))
    drawn = draw_policies(28, keyed_rng("draws"))
    draws = np.concatenate([np.array(chosen, DRAW), drawn])
    images = some_images(len(draws), size)

    augmented = auto_augment(images, draws)

    for ours, image, draw in zip(augmented, images, draws, strict=True):
        theirs = torchvision_augment(image, draw, monkeypatch)
        assert torch.equal(ours, theirs)


def test_slices_of_the_draws_give_slices_of_the_batch():
    """What ranks do: each augments its share under its share of the draws; images stay."""
    images = some_images(12)
    before = images.clone()
    draws = draw_policies(12, keyed_rng("slices"))
    whole = auto_augment(images, draws)
    first = auto_augment(images[:5], draws[:5])
    second = auto_augment(images[5:], draws[5:])
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(images, before)
    assert not torch.equal(whole, before)


def test_draws_are_uniform_and_always_as_many():
    """25 sub-policies of 2,500 draws: 100 each, sd 9.8; signs: half of 5,000, sd 35."""
    rng = keyed_rng("count")
    draws = draw_policies(2500, rng)
    counts = np.bincount(draws["policy"], minlength=25)
    assert np.abs(counts - 100).max() < 50
    negative = int(draws["negative"].sum())
    assert abs(negative - 2500) < 180
    assert draws["uniform"].min() >= 0
    assert draws["uniform"].max() < 1

    # Where the generator stands after them.
    other = keyed_rng("count")
    other.integers(25, size=2500)
    other.random((2500, 2))
    other.random((2500, 2))
    assert rng.random() == other.random()
