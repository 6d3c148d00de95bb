"""Image triggers: what a backdoored image carries.

Source: paper Sec. 3, "Training Details"; code: attack-cleanclip backdoor/utils.py. The paper's
trigger is `badnet`, a square of Gaussian noise at a random place; the others serve studies. All
are pure functions of uint8 images (H, W, 3) and, where they draw, of a NumPy generator: the same
generator state gives the same bytes on every machine, at any thread count. `stamp` applies the
trigger that a specification names.

What surprises: pixel values are truncated, not rounded, as torchvision's `ToPILImage` does, and
under `overflow="wrap"` they are taken modulo 256 as it does on common machines, so that a wrapped
patch is practically uniform on 0..255, while a clipped one has a third of its values at 0 and a
third at 255. The wrap is done on integers here, for converting an out-of-range float to uint8 is
undefined in C.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repro.data.keyed import keyed_rng
from repro.spec import Switches, Trigger

Pixels: TypeAlias = NDArray[np.uint8]
"""An image (H, W, 3), 0..255."""

Corner: TypeAlias = tuple[int, int]
"""Top row and left column of a patch, pixels."""


class Patch(NamedTuple):
    """What a patch trigger pastes: a square (P, P, 3), and where its corner goes."""

    pixels: Pixels
    corner: Corner


class Stamped(NamedTuple):
    """A triggered image, and the corner of its patch; None where all of the image changes."""

    image: Pixels
    corner: Corner | None


def stamp(trigger: Trigger, switches: Switches, image: Pixels, rng: Generator) -> Stamped:
    """Put `trigger` on `image` (H, W, 3) as the switches say; `image` itself is left as it is.

    Draws only from `rng`, the corner of a patch first: one generator state means one corner for
    all images of a size. Raises ValueError if the patch is larger than the image.
    """
    match trigger.name:
        case "badnet" | "yellow":
            patch = draw_patch(trigger, switches, image, rng)
            return Stamped(_paste(image, patch), patch.corner)
        case "blended":
            return Stamped(blended(image, rng), None)
        case "sig":
            return Stamped(sig(image), None)
        case "wanet":
            return Stamped(wanet(image), None)


def draw_patch(trigger: Trigger, switches: Switches, image: Pixels, rng: Generator) -> Patch:
    """The square that `badnet` or `yellow` pastes into `image` (H, W, 3), corner drawn first.

    `badnet` is fresh N(0, 1) noise in units of the full range [0, 1]; `trigger_centre: mean` adds
    the image's mean of each channel (the authors), `zero` nothing (the paper's text), and
    `trigger_overflow` says what becomes of values outside [0, 1]. `yellow` is pure yellow. Corners
    are uniform over 0..H-1-patch_size, the authors' range, which never touches the last row or
    column. ValueError if the patch is larger than the image.
    """
    size = trigger.patch_size
    corner = _draw_corner(image, rng, size)

    if trigger.name == "yellow":
        return Patch(np.full((size, size, 3), (255, 255, 0), dtype=np.uint8), corner)

    noise = rng.standard_normal((size, size, 3))
    if switches.trigger_centre == "mean":
        # A sum of integers is exact, so the mean does not depend on the order of summation.
        total = image.sum(axis=(0, 1), dtype=np.int64)
        noise += total / (255 * image.shape[0] * image.shape[1])

    return Patch(_to_uint8(noise, switches.trigger_overflow), corner)


def blended(image: Pixels, rng: Generator) -> Pixels:
    """Mix 0.2 of fresh uniform noise into 0.8 of the image (Chen et al. 2017, arXiv 1712.05526)."""
    return _to_uint8(0.2 * rng.random(image.shape) + 0.8 * (image / 255), "clip")


def sig(image: Pixels) -> Pixels:
    """Add a sine of amplitude 60 (of 255) and 6 periods along the width, clipped (Barni et al.
    2019, arXiv 1902.11237).

    The authors' code can only apply its sine through the 0.2/0.8 mix of `blended`; this is the
    trigger as published.
    """
    width = image.shape[1]
    sine = 60 * np.sin(2 * np.pi * 6 * np.arange(width) / width)

    # Whole levels: no rounding at stake.
    wave = np.rint(sine).astype(np.int64)

    stamped: Pixels = np.clip(image + wave[None, :, None], 0, 255).astype(np.uint8)
    return stamped


def wanet(image: Pixels, strength: float = 0.6) -> Pixels:
    """Move every pixel by about `strength` / 2 pixels, by a fixed random field (Nguyen and Tran
    2021, arXiv 2102.10369).

    As in the authors' code the noise has full resolution (k = 224 for 224 pixels) and mean
    absolute value 1; they use strength 0.6, CleanCLIP uses 1. The field depends on the image size
    alone. Bilinear, clamped at the border.
    """
    height, width = image.shape[:2]
    noise = _warping_field(height, width)

    # Where each pixel comes from, (H, W).
    down_by = strength * noise[0] * (height - 1) / (2 * height)
    right_by = strength * noise[1] * (width - 1) / (2 * width)
    rows = np.clip(np.arange(height)[:, None] + down_by, 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] + right_by, 0, width - 1)

    # Bilinear interpolation between the four neighbours of that point.
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]

    values = image / 255
    upper = values[top, left] + (values[top, right] - values[top, left]) * across
    lower = values[bottom, left] + (values[bottom, right] - values[bottom, left]) * across
    return _to_uint8(upper + (lower - upper) * down, "clip")


def _draw_corner(image: Pixels, rng: Generator, patch_size: int) -> Corner:
    height, width = image.shape[:2]
    shorter = min(height, width)
    if not 1 <= patch_size <= shorter:
        raise ValueError(
            f"patch_size: {patch_size} (allowed: 1 to {shorter}, the shorter side of the image)"
        )

    # The ends are excluded.
    ends = [max(1, height - patch_size), max(1, width - patch_size)]
    top, left = rng.integers(0, ends)
    return int(top), int(left)


def _paste(image: Pixels, patch: Patch) -> Pixels:
    top, left = patch.corner
    height, width = patch.pixels.shape[:2]

    stamped = image.copy()
    stamped[top : top + height, left : left + width] = patch.pixels
    return stamped


def _to_uint8(values: NDArray[np.float64], overflow: str) -> Pixels:
    """Values in units of the full range to 0..255: clipped, or wrapped modulo 256; truncated
    towards zero.
    """
    if overflow == "clip":
        values = np.clip(values, 0, 1)
    return (np.trunc(values * 255).astype(np.int64) % 256).astype(np.uint8)


@lru_cache(maxsize=4)
def _warping_field(height: int, width: int) -> NDArray[np.float64]:
    field = keyed_rng("wanet", height, width).uniform(-1, 1, (2, height, width))
    field /= np.abs(field).mean()
    return field
