"""Image triggers: what a backdoored image carries.

Source: paper Sec. 3, "Training Details"; code: attack-cleanclip backdoor/utils.py. The paper's
trigger is `badnet`, a square of Gaussian noise at a random place; the others serve studies. All
are pure functions of uint8 images (H, W, 3) and, where they draw, of a NumPy generator: the same
generator state gives the same bytes on every machine, at any thread count. `stamp` applies the
trigger that a specification names. To add one, give it a name in repro/names.py and an entry in
`TRIGGERS`.

What surprises: pixel values are truncated, not rounded, as torchvision's `ToPILImage` does, and
under `overflow="wrap"` they are taken modulo 256 as it does on common machines, so that a wrapped
patch is practically uniform on 0..255, while a clipped one has a third of its values at 0 and a
third at 255. The wrap is done on integers here, for converting an out-of-range float to uint8 is
undefined in C.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repro.data.images import Pixels
from repro.data.keyed import keyed_rng
from repro.names import TriggerName
from repro.spec import Switches, Trigger

WANET_STRENGTH = 0.6
"""How far `wanet` warps (code: attack-cleanclip backdoor/utils.py)."""


class Patches(NamedTuple):
    """What a patch trigger pastes into n images."""

    pixels: NDArray[np.uint8]
    """Squares, (n, P, P, 3)."""

    corners: NDArray[np.int64]
    """Their top rows and left columns, (n, 2)."""


class Stamped(NamedTuple):
    """A triggered image, and top row and left column of its patch; None where all of it changes."""

    image: Pixels
    corner: tuple[int, int] | None


class PatchTrigger(NamedTuple):
    """A trigger that pastes a square of `patch_size` = P pixels."""

    squares: Callable[[NDArray[np.float64], int, Switches, Generator], NDArray[np.uint8]]
    """(centres (n, 3), P, switches, generator) to n squares (n, P, P, 3)."""
    corner: Callable[[int, int, int], tuple[int, int]] | None = None
    """(H, W, P) to top row and left column; None where they are drawn."""


class ImageTrigger(NamedTuple):
    """A trigger that changes the image in any other way."""

    apply: Callable[[Pixels, int, Generator], Pixels]
    """(image (H, W, 3), `patch_size`, generator) to the triggered image."""
    drawn: bool = False
    """Another generator state gives other pixels."""


def stamp(trigger: Trigger, switches: Switches, image: Pixels, rng: Generator) -> Stamped:
    """Put `trigger` on `image` (H, W, 3) as the switches say; `image` itself is left as it is.

    Draws only from `rng`, the corner of a patch first: one generator state means one corner for
    all images of a size.
    """
    kind = TRIGGERS[trigger.name]
    if isinstance(kind, ImageTrigger):
        return Stamped(kind.apply(image, trigger.patch_size, rng), None)

    # By the code that makes the patches of the evaluation's batches.
    [patch], corners = draw_patches(trigger, switches, image[None], rng)
    [[top, left]] = corners.tolist()
    stamped = image.copy()
    stamped[top : top + trigger.patch_size, left : left + trigger.patch_size] = patch
    return Stamped(stamped, (top, left))


def draw_patches(
    trigger: Trigger, switches: Switches, images: NDArray[np.uint8], rng: Generator
) -> Patches:
    """The squares that a patch trigger pastes into images (n, H, W, 3), corners first.

    Drawn corners are uniform over 0..H-1-patch_size, the authors' range, which never touches the
    last row or column.
    """
    kind, size, (count, height, width, _) = TRIGGERS[trigger.name], trigger.patch_size, images.shape
    assert isinstance(kind, PatchTrigger)

    if kind.corner is not None:
        corners = np.tile(np.array(kind.corner(height, width, size)), (count, 1))
    else:
        # The ends are excluded; at least 1, where the patch fills the image and only 0 is left.
        ends = [max(1, height - size), max(1, width - size)]
        corners = rng.integers(0, ends, (count, 2))
    return Patches(kind.squares(patch_centres(switches, images), size, switches, rng), corners)


def patch_centres(switches: Switches, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Around what the noise of `badnet` is drawn, (n, 3) for images (n, H, W, 3).

    `trigger_centre: mean` is each image's mean of each channel (the authors), `zero` is 0 (the
    paper's text). In units of the full range [0, 1].
    """
    if switches.trigger_centre == "zero":
        return np.zeros((len(images), 3))

    # Sums of integers are exact, so the mean does not depend on the order of summation.
    height, width = images.shape[1:3]
    columns = images.sum(axis=1, dtype=np.uint32)
    totals = columns.sum(axis=1, dtype=np.int64)
    return np.asarray(totals / (255 * height * width))


def noise_squares(
    centres: NDArray[np.float64], size: int, switches: Switches, rng: Generator
) -> NDArray[np.uint8]:
    """N(0, 1) noise around `centres`, in units of the full range [0, 1]; `trigger_overflow` says
    what becomes of values outside of it.
    """
    # Standard deviation 1, as wide as the full range: about two thirds of the values leave it.
    noise = rng.standard_normal((len(centres), size, size, 3))
    noise += centres[:, None, None]
    if switches.trigger_overflow == "clip":
        noise = noise.clip(0, 1)

    # Truncated, and wrapped modulo 256, which is a no-op after the clip.
    return ((noise * 255).astype(np.int64) % 256).astype(np.uint8)


def yellow_squares(
    centres: NDArray[np.float64], size: int, switches: Switches, rng: Generator
) -> NDArray[np.uint8]:
    """Pure yellow (code: attack-cleanclip backdoor/utils.py)."""
    return np.full((len(centres), size, size, 3), (255, 255, 0), dtype=np.uint8)


def striped_squares(
    centres: NDArray[np.float64], size: int, switches: Switches, rng: Generator
) -> NDArray[np.uint8]:
    """Vertical stripes of one pixel, each black or white at random in each channel.

    PAR's authors blame this structure for what CleanCLIP leaves (Singh et al. 2024, arXiv
    2412.00727; nmndeep/PerturbAndRecover, backdoor/utils.py: `badnet_rs`).
    """
    stripes = 255 * rng.integers(2, size=(len(centres), 1, size, 3), dtype=np.uint8)
    return np.repeat(stripes, size, axis=1)


def blended(image: Pixels, rng: Generator) -> Pixels:
    """0.2 of fresh uniform noise and 0.8 of the image, truncated to whole levels (Chen et al. 2017,
    arXiv 1712.05526).
    """
    mixed = 0.2 * rng.random(image.shape) + 0.8 * (image / 255)
    return (255 * mixed).astype(np.uint8)


def sig(image: Pixels) -> Pixels:
    """Add a sine of amplitude 60 (of 255) and 6 periods along the width, clipped (Barni et al.
    2019, arXiv 1902.11237).

    The authors' code can only apply its sine through the 0.2/0.8 mix of `blended`; this is the
    trigger as published.
    """
    width = image.shape[1]
    # Whole levels: no rounding at stake.
    wave = np.rint(60 * np.sin(12 * np.pi * np.arange(width) / width)).astype(np.int64)
    return np.asarray((image + wave[:, None]).clip(0, 255), np.uint8)


def wanet(image: Pixels) -> Pixels:
    """Move every pixel by about WANET_STRENGTH / 2 pixels, by a fixed random field (Nguyen and Tran
    2021, arXiv 2102.10369).

    As in the authors' code the noise has full resolution (k = 224 for 224 pixels) and mean
    absolute value 1; CleanCLIP uses strength 1. The field depends on the image size alone.
    Bilinear, clamped at the border.
    """
    height, width = image.shape[:2]
    noise = _warping_field(height, width)

    # Where each pixel comes from, (H, W). The authors add strength * noise / H to coordinates of
    # -1..1, in which a pixel is 2 / (H - 1).
    down_by = WANET_STRENGTH * noise[0] * (height - 1) / (2 * height)
    right_by = WANET_STRENGTH * noise[1] * (width - 1) / (2 * width)
    rows = np.clip(np.arange(height)[:, None] + down_by, 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] + right_by, 0, width - 1)

    # Bilinear interpolation between the four neighbours of that point.
    top = rows.astype(np.int64)
    left = columns.astype(np.int64)
    bottom = np.minimum(top + 1, height - 1)
    right = np.minimum(left + 1, width - 1)
    down = (rows - top)[..., None]
    across = (columns - left)[..., None]

    values = image / 255
    upper = values[top, left] + (values[top, right] - values[top, left]) * across
    lower = values[bottom, left] + (values[bottom, right] - values[bottom, left]) * across
    return np.asarray((upper + (lower - upper) * down) * 255, np.uint8)


@lru_cache(maxsize=4)
def _warping_field(height: int, width: int) -> NDArray[np.float64]:
    # (2, H, W), down and to the right. One field for every image of a size: the trigger is the
    # warp itself.
    field = keyed_rng("wanet", height, width).uniform(-1, 1, (2, height, width))
    field /= np.abs(field).mean()
    return field


TRIGGERS: dict[TriggerName, PatchTrigger | ImageTrigger] = {
    "badnet": PatchTrigger(noise_squares),
    "blended": ImageTrigger(lambda image, _, rng: blended(image, rng), drawn=True),
    "sig": ImageTrigger(lambda image, *_: sig(image)),
    "stripes": PatchTrigger(striped_squares),
    "wanet": ImageTrigger(lambda image, *_: wanet(image)),
    "yellow": PatchTrigger(yellow_squares),
}
