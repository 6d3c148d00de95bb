"""Image views: shift and flip of every image, and for the self-supervised loss AutoAugment with its
ImageNet policy (Cubuk et al. 2019, arXiv 1805.09501).

AutoAugment is equal to `torchvision.transforms.v2.AutoAugment()` on each image, but draws and
operations are apart: draws are made for a global batch in a fixed order and sliced per rank, and
images that share operation and magnitude go through torchvision together, since for small images
the cost is in the calls.

The authors put the operations of torchvision's first version on Pillow images. On the same draws
that path gives other bytes for 100 of 600 drawn images at 32 pixels and 72 of 250 at 224, by 0.2 to
0.3 levels on average: Pillow rounds and interpolates otherwise than torchvision does on tensors
(tests/train/test_pillow_difference.py).

Shapes: B = images, uint8, 0..255.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from jaxtyping import UInt8
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import AutoAugment

from repro.names import ImageViewName
from repro.spec import Views

POLICIES = AutoAugment().policies
"""The 25 sub-policies learnt on ImageNet (arXiv 1805.09501, Appendix), two operations each: name,
probability, and magnitude as one of ten steps 0..9, None where the operation has none.
"""


def _shear_x(images: Tensor, level: float) -> Tensor:
    degrees = math.degrees(math.atan(level))
    # torchvision wants an angle; the policy's magnitude is its tangent. Sheared about the top left.
    sheared: Tensor = F.affine(
        images, angle=0.0, translate=[0, 0], scale=1.0, shear=[degrees, 0.0], center=[0, 0]
    )
    return sheared


# Name to (magnitude at step 9, whether its sign is drawn, operation); magnitudes grow linearly from
# 0 at step 0.
OPERATIONS: dict[str, tuple[float, bool, Callable[[Tensor, float], Tensor]]] = {
    "ShearX": (0.3, True, _shear_x),
    "Rotate": (30.0, True, F.rotate),
    "Color": (0.9, True, lambda images, level: F.adjust_saturation(images, 1.0 + level)),
    "Contrast": (0.9, True, lambda images, level: F.adjust_contrast(images, 1.0 + level)),
    "Sharpness": (0.9, True, lambda images, level: F.adjust_sharpness(images, 1.0 + level)),
    "Posterize": (4.0, False, lambda images, level: F.posterize(images, 8 - round(level))),
    "Solarize": (1.0, False, lambda images, level: F.solarize(images, 255 * (1.0 - level))),
    "AutoContrast": (0.0, False, lambda images, level: F.autocontrast(images)),
    "Equalize": (0.0, False, lambda images, level: F.equalize(images)),
    "Invert": (0.0, False, lambda images, level: F.invert(images)),
}
LEVELS: dict[str, list[float]] = {
    name: torch.linspace(0.0, row[0], 10).tolist() for name, row in OPERATIONS.items()
}
"""Magnitudes by step, rounded to float32 as torchvision's are."""

DRAW = np.dtype([("policy", np.int64), ("uniform", np.float64, 2), ("negative", np.bool_, 2)])
"""One image's draws: its sub-policy; for both operations uniform draw and sign."""


def draw_policies(count: int, rng: Generator) -> NDArray[np.void]:
    """Draws for `count` images, (count,) of `DRAW`, always as many: a slice is a rank's share."""
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


def crop_and_colour(
    images: UInt8[Tensor, "B 3 H W"], draws: NDArray[np.float64]
) -> UInt8[Tensor, "B 3 H W"]:
    """A random part of each image at full size, with other brightness, contrast and saturation
    (the views of SimCLR, Chen et al. 2020, arXiv 2002.05709, without its greys and blur). `draws`
    (B, 7) are uniform on [0, 1).

    Area 0.2 to 1 of the image, aspect ratio 3/4 to 4/3, factors of colour 0.6 to 1.4.
    """
    area, ratio, across, down, *factors = torch.from_numpy(draws).float().T
    area, ratio = 0.2 + 0.8 * area, (4 / 3) ** (2 * ratio - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)

    # In coordinates of -1..1, where a part of width w has its centre within 1 - w of the middle.
    parts = torch.zeros(len(images), 2, 3)
    parts[:, 0, 0], parts[:, 1, 1] = width, height
    parts[:, 0, 2], parts[:, 1, 2] = (2 * across - 1) * (1 - width), (2 * down - 1) * (1 - height)
    grid = nn.functional.affine_grid(parts, list(images.shape), align_corners=False)
    cropped = nn.functional.grid_sample(
        images.float(), grid, padding_mode="border", align_corners=False
    )

    # Each factor moves the image away from black, from its mean grey, or from its own grey.
    brightness, contrast, saturation = ((0.6 + 0.8 * f)[:, None, None, None] for f in factors)
    cropped = (cropped * brightness).clamp(0, 255)
    mean = F.rgb_to_grayscale(cropped).mean(dim=(1, 2, 3), keepdim=True)
    cropped = ((cropped - mean) * contrast + mean).clamp(0, 255)
    grey = F.rgb_to_grayscale(cropped)
    saturated: Tensor = (cropped - grey) * saturation + grey
    return saturated.clamp(0, 255).to(torch.uint8)


def draw_noise(count: int, rng: Generator) -> NDArray[np.float64]:
    """Draws for `count` images, (count, 6): a key of the noise, and uniform numbers on [0, 1)."""
    return np.column_stack([rng.integers(2**32, size=count), rng.random((count, 5))])


def noise_and_erasing(
    images: UInt8[Tensor, "B 3 H W"], draws: NDArray[np.float64]
) -> UInt8[Tensor, "B 3 H W"]:
    """PAR's light view (nmndeep/PerturbAndRecover, utils.py).

    With probability 1/2 Gaussian noise of deviation 0.2 of the full range, and with probability 1/2
    a black rectangle of 0.5 to 1% of the area and aspect ratio 0.3 to 3.3.
    """
    changed = images.clone()
    height, width = images.shape[-2:]
    for image, (key, noisy, erased, area, ratio, place) in zip(changed, draws, strict=True):
        if noisy < 0.5:
            # The authors clip the noise itself to 0..1, so that it only brightens.
            noise = np.random.default_rng(int(key)).normal(0, 0.2, image.shape).clip(0, 1)
            image.copy_((image + torch.from_numpy(255 * noise)).clamp(max=255))

        if erased < 0.5:
            pixels, aspect = (0.005 + 0.005 * area) * height * width, 0.3 * (3.3 / 0.3) ** ratio
            rows = max(1, round(math.sqrt(pixels * aspect)))
            columns = max(1, round(math.sqrt(pixels / aspect)))
            across = width - columns + 1
            top, left = divmod(int(place * (height - rows + 1) * across), across)
            image[:, top : top + rows, left : left + columns] = 0
    return changed


def _groups(draws: NDArray[np.void], position: int) -> dict[tuple[str, float], list[int]]:
    """Images that undergo an operation as first or second, by its name and signed magnitude."""
    groups: dict[tuple[str, float], list[int]] = defaultdict(list)
    for index, (policy, uniform, negative) in enumerate(draws.tolist()):
        name, probability, step = POLICIES[policy][position]
        if uniform[position] <= probability:
            # Both signs were drawn for every image; here it shows whether the operation has one.
            sign = -1 if OPERATIONS[name][1] and negative[position] else 1
            groups[name, sign * LEVELS[name][step or 0]].append(index)

    return groups


class ImageView(NamedTuple):
    """An augmentation, apart from what it draws."""

    draw: Callable[[int, Generator], NDArray[Any]]
    """(images of the global batch, generator) to a row of draws for each."""
    apply: Callable[[Tensor, NDArray[Any]], Tensor]
    """(images (B, 3, H, W), their draws) to images of the same shape, uint8."""


MIXTURE: dict[ImageViewName, ImageView] = {
    "autoaugment": ImageView(draw_policies, auto_augment),
    "crop_and_colour": ImageView(lambda count, rng: rng.random((count, 7)), crop_and_colour),
    "noise_and_erasing": ImageView(draw_noise, noise_and_erasing),
}
"""The views of which `mixed` draws one for each batch."""


def draw_mixed(count: int, rng: Generator) -> NDArray[np.object_]:
    """Draws for `count` images, (count,) of (view, its draw); one view for the whole batch."""
    name = list(MIXTURE)[rng.integers(len(MIXTURE))]
    draws = np.empty(count, object)
    for index, draw in enumerate(MIXTURE[name].draw(count, rng)):
        draws[index] = name, draw
    return draws


def mixed(images: UInt8[Tensor, "B 3 H W"], draws: NDArray[np.object_]) -> UInt8[Tensor, "B 3 H W"]:
    """Images by the view that the batch has drawn."""
    name = draws[0][0]
    return MIXTURE[name].apply(images, np.stack([draw for _, draw in draws]))


IMAGE_VIEWS: dict[ImageViewName, ImageView] = {
    **MIXTURE,
    "mixed": ImageView(draw_mixed, mixed),
    # Shifted and flipped as every view is, and nothing else.
    "unaugmented": ImageView(lambda count, rng: np.empty(count), lambda images, draws: images),
}


def shift_and_flip(
    pixels: UInt8[Tensor, "b 3 H W"],
    views: Views,
    rng: Generator,
    batch: int,
    mine: slice,
) -> UInt8[Tensor, "b 3 H W"]:
    """Whole-pixel shift with repeated edges and horizontal flip, drawn for the global batch.

    Whole pixels, since resampling would blur a noise trigger in training but not at evaluation.
    `batch` is B, and `mine` the part of it that `pixels` holds.
    """
    # Drawn even where nothing is done, so that what is drawn after it stays the same.
    reach = views.shift_pixels
    shifts = rng.integers(-reach, reach + 1, size=(batch, 2))[mine]
    flips = (rng.random(batch) < 0.5)[mine] & views.flip
    if not reach and not views.flip:
        return pixels

    # Where each pixel comes from.
    height, width = pixels.shape[-2:]
    ys = np.clip(np.arange(height) + shifts[:, :1], 0, height - 1)  # (b, H)
    xs = np.clip(np.arange(width) + shifts[:, 1:], 0, width - 1)  # (b, W)
    xs = np.where(flips[:, None], xs[:, ::-1], xs)

    # One look-up in all pixels of the batch.
    images = np.arange(len(pixels))[:, None, None] * height * width
    sources = images + ys[:, :, None] * width + xs[:, None, :]  # (b, H, W)
    colours = pixels.permute(0, 2, 3, 1).numpy().reshape(-1, 3)
    return torch.from_numpy(colours.take(sources, axis=0)).permute(0, 3, 1, 2)
