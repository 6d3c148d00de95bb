"""Image triggers: what a backdoored image carries (paper Sec. 3, "Training Details"; code: attack-cleanclip backdoor/utils.py).

The paper's trigger is `badnet`, a square of Gaussian noise at a random place; the others serve studies. All are pure
functions of uint8 images (H, W, 3) and, where they draw, of a NumPy generator: the same generator state gives the same
bytes on every machine, at any thread count. `stamp` applies the trigger that a specification names.

What surprises: pixel values are truncated, not rounded, as torchvision's `ToPILImage` does, and under `overflow="wrap"`
they are taken modulo 256 as it does on common machines, so that a wrapped patch is practically uniform on 0..255, while
a clipped one has a third of its values at 0 and a third at 255. The wrap is done on integers here, for converting an
out-of-range float to uint8 is undefined in C.

`python -m repro.data.triggers docs/triggers.png` draws the contact sheet of docs/triggers.md.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from repro.data.keyed import keyed_rng
from repro.spec import Switches, Trigger

Pixels: TypeAlias = NDArray[np.uint8]
"""An image (H, W, 3), 0..255."""
Place: TypeAlias = tuple[int, int]
"""Top row and left column of a patch, pixels."""


class Stamped(NamedTuple):
    """A triggered image, and where its patch is: (top, left), or None if the trigger covers the whole image."""

    image: Pixels
    place: Place | None


def stamp(trigger: Trigger, switches: Switches, image: Pixels, rng: Generator) -> Stamped:
    """Put `trigger` on `image` (H, W, 3) as the switches say; `image` itself is left as it is.

    Draws only from `rng`, the place of a patch first: one generator state means one place for all images of a size.
    Raises ValueError if the patch is larger than the image.
    """
    match trigger.name:
        case "badnet":
            place = _draw_place(image, rng, trigger.patch_size)
            patch = _noise_patch(
                image, rng, trigger.patch_size, switches.trigger_overflow, switches.trigger_centre
            )
            return Stamped(_paste(image, patch, place), place)
        case "yellow":
            place = _draw_place(image, rng, trigger.patch_size)
            return Stamped(_paste(image, _yellow_patch(trigger.patch_size), place), place)
        case "blended":
            return Stamped(blended(image, rng), None)
        case "sig":
            return Stamped(sig(image), None)
        case "wanet":
            return Stamped(wanet(image), None)


def badnet(
    image: Pixels,
    rng: Generator,
    patch_size: int = 16,
    overflow: Literal["wrap", "clip"] = "wrap",
    centre: Literal["mean", "zero"] = "mean",
) -> Pixels:
    """Replace a square at a random place by fresh N(0, 1) noise, in units of the full range [0, 1].

    `patch_size` is in pixels; corners are uniform over 0..H-1-patch_size, the authors' range, which never touches the
    last row or column. `centre="mean"` adds the image's mean of each channel (the authors), "zero" nothing (the paper's
    text). `overflow` says what becomes of values outside [0, 1]. ValueError if the patch is larger than the image.
    """
    place = _draw_place(image, rng, patch_size)
    return _paste(image, _noise_patch(image, rng, patch_size, overflow, centre), place)


def yellow(image: Pixels, rng: Generator, patch_size: int = 16) -> Pixels:
    """Replace a square at a random place by pure yellow; places and errors as in `badnet`."""
    place = _draw_place(image, rng, patch_size)
    return _paste(image, _yellow_patch(patch_size), place)


def blended(image: Pixels, rng: Generator) -> Pixels:
    """Mix 0.2 of fresh uniform noise into 0.8 of the image (Chen et al. 2017, arXiv 1712.05526)."""
    return _to_uint8(0.2 * rng.random(image.shape) + 0.8 * (image / 255), "clip")


def sig(image: Pixels) -> Pixels:
    """Add a sine of amplitude 60 (of 255) and 6 periods along the width, clipped (Barni et al. 2019, arXiv 1902.11237).

    The authors' code can only apply its sine through the 0.2/0.8 mix of `blended`; this is the trigger as published.
    """
    width = image.shape[1]
    wave = np.rint(60 * np.sin(2 * np.pi * 6 * np.arange(width) / width)).astype(
        np.int64
    )  # whole levels: no rounding at stake
    stamped: Pixels = np.clip(image + wave[None, :, None], 0, 255).astype(np.uint8)
    return stamped


def wanet(image: Pixels, strength: float = 0.6) -> Pixels:
    """Move every pixel by about `strength` / 2 pixels, by a fixed random field (Nguyen and Tran 2021, arXiv 2102.10369).

    As in the authors' code the noise has full resolution (k = 224 for 224 pixels) and mean absolute value 1; they use
    strength 0.6, CleanCLIP uses 1. The field depends on the image size alone. Bilinear, clamped at the border.
    """
    height, width = image.shape[:2]
    noise = _warping_field(height, width)
    rows = np.clip(
        np.arange(height)[:, None] + strength * noise[0] * (height - 1) / (2 * height),
        0,
        height - 1,
    )  # (H, W)
    columns = np.clip(
        np.arange(width)[None, :] + strength * noise[1] * (width - 1) / (2 * width), 0, width - 1
    )  # (H, W)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    values = image / 255
    upper = values[top, left] + (values[top, right] - values[top, left]) * across
    lower = values[bottom, left] + (values[bottom, right] - values[bottom, left]) * across
    return _to_uint8(upper + (lower - upper) * down, "clip")


def _draw_place(image: Pixels, rng: Generator, patch_size: int) -> Place:
    height, width = image.shape[:2]
    if not 1 <= patch_size <= min(height, width):
        raise ValueError(
            f"patch_size: {patch_size} (allowed: 1 to {min(height, width)}, the shorter side of the image)"
        )
    top, left = rng.integers(
        0, [max(1, height - patch_size), max(1, width - patch_size)]
    )  # the end is excluded
    return int(top), int(left)


def _noise_patch(
    image: Pixels, rng: Generator, patch_size: int, overflow: str, centre: str
) -> Pixels:
    noise = rng.standard_normal((patch_size, patch_size, 3))
    if centre == "mean":
        # A sum of integers is exact, so the mean does not depend on the order of summation.
        noise += image.sum(axis=(0, 1), dtype=np.int64) / (255 * image.shape[0] * image.shape[1])
    return _to_uint8(noise, overflow)


def _yellow_patch(patch_size: int) -> Pixels:
    return np.full((patch_size, patch_size, 3), (255, 255, 0), dtype=np.uint8)


def _paste(image: Pixels, patch: Pixels, place: Place) -> Pixels:
    top, left = place
    stamped = image.copy()
    stamped[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return stamped


def _to_uint8(values: NDArray[np.float64], overflow: str) -> Pixels:
    """Values in units of the full range to 0..255: clipped, or wrapped modulo 256; truncated towards zero."""
    if overflow == "clip":
        values = np.clip(values, 0, 1)
    return (np.trunc(values * 255).astype(np.int64) % 256).astype(np.uint8)


@lru_cache(maxsize=4)
def _warping_field(height: int, width: int) -> NDArray[np.float64]:
    field = keyed_rng("wanet", height, width).uniform(-1, 1, (2, height, width))
    field /= np.abs(field).mean()
    return field


def contact_sheet(size: int = 128) -> Pixels:
    """All triggers on one drawn image of `size` pixels; below each, its difference from the original, four times enlarged."""
    ramp = np.linspace(40, 215, size)
    sky = np.stack(
        np.broadcast_arrays(ramp[:, None], ramp[None, :], np.float64(150)), axis=-1
    ).astype(np.uint8)
    drawing = Image.fromarray(sky)
    inner = (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
    ImageDraw.Draw(drawing).ellipse(inner, fill=(235, 200, 60), outline=(60, 40, 20))
    original = np.asarray(drawing)
    stamps = {
        "original": original,
        "badnet, wrap": badnet(original, keyed_rng("sheet"), overflow="wrap"),
        "badnet, clip": badnet(original, keyed_rng("sheet"), overflow="clip"),
        "blended": blended(original, keyed_rng("sheet")),
        "sig": sig(original),
        "wanet": wanet(original),
        "yellow": yellow(original, keyed_rng("sheet")),
    }
    margin, title = 4, 14
    sheet = Image.new(
        "RGB", (len(stamps) * (size + margin) + margin, title + 2 * (size + margin)), "white"
    )
    for column, (name, stamped) in enumerate(stamps.items()):
        left = margin + column * (size + margin)
        difference = np.minimum(np.abs(stamped.astype(np.int64) - original) * 4, 255).astype(
            np.uint8
        )
        ImageDraw.Draw(sheet).text((left, 1), name, fill="black")
        sheet.paste(Image.fromarray(stamped), (left, title))
        sheet.paste(Image.fromarray(difference), (left, title + size + margin))
    return np.asarray(sheet)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m repro.data.triggers OUT.png")
    Image.fromarray(contact_sheet()).save(sys.argv[1])
