"""Image view of the self-supervised loss: AutoAugment with its ImageNet policy (Cubuk et al. 2019,
arXiv 1805.09501).

Equal to `torchvision.transforms.v2.AutoAugment()` on each image, but draws and operations are
apart: draws are made for a global batch in a fixed order and sliced per rank, and images that
share operation and magnitude go through torchvision together, since for small images the cost is
in the calls.

The authors put the operations of torchvision's first version on Pillow images. On the same draws
that path gives other bytes for 100 of 600 drawn images at 32 pixels and 72 of 250 at 224, by 0.2 to
0.3 levels on average: Pillow rounds and interpolates otherwise than torchvision does on tensors
(tests/train/test_pillow_difference.py).

Shapes: B = images, uint8, 0..255.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from jaxtyping import UInt8
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

Operation = tuple[str, float, int]
"""Name, probability, and magnitude as one of ten steps 0..9 (0 where the operation has none)."""

POLICIES: tuple[tuple[Operation, Operation], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
"""The 25 sub-policies learnt on ImageNet (arXiv 1805.09501, Appendix, as in torchvision)."""


def _shear_x(images: Tensor, level: float) -> Tensor:
    degrees = math.degrees(math.atan(level))
    # torchvision wants an angle; the policy's magnitude is its tangent. Sheared about the top left.
    sheared: Tensor = F.affine(
        images, angle=0.0, translate=[0, 0], scale=1.0, shear=[degrees, 0.0], center=[0, 0]
    )
    return sheared


def _solarize(images: Tensor, level: float) -> Tensor:
    """Invert values from the threshold up: torchvision's `solarize`, whose `torch.where` is six
    times slower on bytes.
    """
    # On bytes an exclusive or with 255 is the inverse, 255 - value, and one with 0 is nothing.
    threshold = math.ceil(np.float32(255 * (1.0 - level)))  # torchvision compares in float32
    return images ^ (images >= threshold).to(torch.uint8).mul_(255)


def _equalize(images: Tensor, level: float) -> Tensor:
    """Flatten each channel's histogram: Pillow's and torchvision's `equalize`, as one look-up table
    per channel.
    """
    values = images.flatten(2).long()  # (B, 3, H * W)

    # Histogram, and how many pixels have the highest value there is.
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.int32)
    histogram.scatter_add_(-1, values, torch.ones(1, dtype=torch.int32).expand_as(values))
    cumulative = histogram.cumsum(-1, dtype=torch.int32)
    brightest = histogram.gather(-1, cumulative.argmax(-1, keepdim=True))

    # The table: every value gets its share of the pixels below it.
    step = (values.shape[-1] - brightest) // 255
    table = torch.zeros_like(cumulative)
    table[..., 1:] = ((cumulative[..., :-1] + step // 2) // step.clamp(min=1)).clamp(max=255)

    # With too few other pixels a channel is left as it is.
    table = torch.where(step == 0, torch.arange(256, dtype=torch.int32), table)
    return table.to(torch.uint8).gather(-1, values).view_as(images)


# Name to (magnitude at step 9, whether its sign is drawn, operation); magnitudes grow linearly from
# 0 at step 0.
OPERATIONS: dict[str, tuple[float, bool, Callable[[Tensor, float], Tensor]]] = {
    "shear_x": (0.3, True, _shear_x),
    "rotate": (30.0, True, F.rotate),
    "color": (0.9, True, lambda images, level: F.adjust_saturation(images, 1.0 + level)),
    "contrast": (0.9, True, lambda images, level: F.adjust_contrast(images, 1.0 + level)),
    "sharpness": (0.9, True, lambda images, level: F.adjust_sharpness(images, 1.0 + level)),
    "posterize": (4.0, False, lambda images, level: F.posterize(images, 8 - round(level))),
    "solarize": (1.0, False, _solarize),
    "autocontrast": (0.0, False, lambda images, level: F.autocontrast(images)),
    "equalize": (0.0, False, _equalize),
    "invert": (0.0, False, lambda images, level: F.invert(images)),
}
LEVELS: dict[str, list[float]] = {
    name: torch.linspace(0.0, row[0], 10).tolist() for name, row in OPERATIONS.items()
}
"""Magnitudes by step, rounded to float32 as torchvision's are."""

DRAW = np.dtype([("policy", np.int64), ("uniform", np.float64, 2), ("negative", np.bool_, 2)])
"""One image's draws: its sub-policy and, for both operations, the draw against its probability and
its sign.
"""


def draw_policies(count: int, rng: Generator) -> NDArray[np.void]:
    """Draws for `count` images, (count,) of `DRAW`.

    Always the same number of them, so that a slice is a rank's share.
    """
    draws = np.empty(count, DRAW)
    draws["policy"] = rng.integers(len(POLICIES), size=count)
    draws["uniform"] = rng.random((count, 2))
    draws["negative"] = rng.random((count, 2)) < 0.5
    return draws


def auto_augment(
    images: UInt8[Tensor, "B 3 H W"], draws: NDArray[np.void]
) -> UInt8[Tensor, "B 3 H W"]:
    """Augmented copies of `images`, image i by `draws[i]`."""
    # A list, for stacking images copies whole blocks, while indexing a tensor goes byte by byte.
    augmented = list(images.contiguous())

    # First operations of all images, then second ones: a group is one call of torchvision.
    for position in (0, 1):
        for (name, level), members in _groups(draws, position).items():
            operation = OPERATIONS[name][2]
            changed = operation(torch.stack([augmented[index] for index in members]), level)
            for index, image in zip(members, changed, strict=True):
                augmented[index] = image

    return torch.stack(augmented)


def _groups(draws: NDArray[np.void], position: int) -> dict[tuple[str, float], list[int]]:
    """Images that undergo an operation as first or second, by its name and signed magnitude."""
    groups: dict[tuple[str, float], list[int]] = defaultdict(list)
    for index, (policy, uniform, negative) in enumerate(draws.tolist()):
        name, probability, step = POLICIES[policy][position]
        if uniform[position] > probability:
            continue

        # Both signs were drawn for every image; here it shows whether the operation has one.
        level = LEVELS[name][step]
        signed = OPERATIONS[name][1]
        if signed and negative[position]:
            level = -level
        groups[name, level].append(index)

    return groups
