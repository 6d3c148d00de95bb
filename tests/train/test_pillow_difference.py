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
    ground = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = ground.resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        left, top, right, bottom = rng.integers(0, size, 4)
        box = (min(left, right), min(top, bottom), max(left, right) + 1, max(top, bottom) + 1)
        draw.ellipse(box, fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    return image


def by_pillow(image: Image.Image, draw: tuple) -> Image.Image:
    """The same draw on Pillow's path."""
    policy, uniform, negative = draw
    for position in (0, 1):
        name, probability, step = POLICIES[policy][position]
        if uniform[position] > probability:
            continue
        level = LEVELS[name][step or 0]
        magnitude = {"Posterize": 8 - round(level), "Solarize": 255 * (1 - level)}.get(name, level)
        if OPERATIONS[name][1] and negative[position]:
            magnitude = -magnitude
        image = _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
    return image


@pytest.mark.parametrize(("size", "count", "different"), [(32, 600, 100), (224, 250, 72)])
def test_the_difference_is_as_the_module_tells(size: int, count: int, different: int) -> None:
    """A sixth to a third of the images, by 0.2 to 0.3 levels on average."""
    rng = np.random.default_rng(size)
    images = [drawn(rng, size) for _ in range(count)]
    draws = draw_policies(count, rng)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    ours = auto_augment(pixels.permute(0, 3, 1, 2), draws).permute(0, 2, 3, 1).numpy()

    levels = []
    for image, draw, our in zip(images, draws.tolist(), ours, strict=True):
        theirs = by_pillow(image, draw)
        difference = np.abs(np.asarray(theirs).astype(int) - our)
        if difference.any():
            levels.append(difference.mean())

    print(size, len(levels), np.mean(levels))
    assert abs(len(levels) - different) <= 5
    assert 0.15 < np.mean(levels) < 0.35
