"""How far our AutoAugment is from torchvision's first version on Pillow, the authors' one."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from repro.train.views.image import LEVELS, OPERATIONS, POLICIES, auto_augment, draw_policies


def drawn(rng: np.random.Generator, size: int) -> Image.Image:
    """Five ellipses on a smooth ground."""
    pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    ground = Image.fromarray(pixels)
    image = ground.resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, other_x, other_y = rng.integers(0, size, 4)
        left, right = sorted((x, other_x))
        top, bottom = sorted((y, other_y))
        red, green, blue = rng.integers(0, 256, 3).tolist()
        box = (left, top, right + 1, bottom + 1)
        draw.ellipse(box, fill=(red, green, blue))
    return image


def by_pillow(image: Image.Image, draw: tuple) -> Image.Image:
    """The same draw on Pillow's path."""
    policy, uniform, negative = draw
    for position in (0, 1):
        name, probability, step = POLICIES[policy][position]
        if uniform[position] > probability:
            continue
        magnitude = level = LEVELS[name][step or 0]
        if name == "Posterize":
            magnitude = 8 - round(level)
        if name == "Solarize":
            magnitude = 255 * (1 - level)
        _, is_signed, *_ = OPERATIONS[name]
        if is_signed and negative[position]:
            magnitude = -magnitude
        image = _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
    return image


@pytest.mark.parametrize(("size", "count", "different"), [(32, 600, 100), (224, 250, 72)])
def test_the_difference_is_as_the_module_tells(size: int, count: int, different: int) -> None:
    """A sixth to a third of the images, by 0.2 to 0.3 levels on average."""
    rng = np.random.default_rng(size)
    images = [drawn(rng, size) for _ in range(count)]
    draws = draw_policies(count, rng)
    pixels = np.stack([np.asarray(image) for image in images])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    augmented = auto_augment(batch, draws)
    by_us = augmented.permute(0, 2, 3, 1).numpy()

    levels = []
    for image, draw, ours in zip(images, draws.tolist(), by_us, strict=True):
        theirs = np.asarray(by_pillow(image, draw))
        difference = np.abs(theirs.astype(int) - ours)
        if difference.any():
            levels.append(difference.mean())

    mean = np.mean(levels)
    print(size, len(levels), mean)
    assert abs(len(levels) - different) <= 5
    assert 0.15 < mean < 0.35
