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

from repro.data.blended import blended
from repro.data.images import Pixels
from repro.data.keyed import keyed_rng
from repro.data.sig import sig
from repro.data.stripes import striped_squares
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
    """A trigger that pastes a square of `patch_size` pixels at a drawn corner."""

    squares: Callable[[NDArray[np.float64], int, Switches, Generator], NDArray[np.uint8]]
    """(centres (n, 3), P, switches, generator) to n squares (n, P, P, 3)."""


class ImageTrigger(NamedTuple):
    """A trigger that changes the whole image."""

    apply: Callable[[Pixels, Generator], Pixels]
    drawn: bool = False
    """Another generator state gives other pixels."""


def stamp(trigger: Trigger, switches: Switches, image: Pixels, rng: Generator) -> Stamped:
    """Put `trigger` on `image` (H, W, 3) as the switches say; `image` itself is left as it is.

    Draws only from `rng`, the corner of a patch first: one generator state means one corner for
    all images of a size.
    """
    kind = TRIGGERS[trigger.name]
    if isinstance(kind, ImageTrigger):
        return Stamped(kind.apply(image, rng), None)

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

    Corners are uniform over 0..H-1-patch_size, the authors' range, which never touches the last row
    or column.
    """
    kind, size, (count, height, width, _) = TRIGGERS[trigger.name], trigger.patch_size, images.shape
    assert isinstance(kind, PatchTrigger)

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
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]

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
    "blended": ImageTrigger(blended, drawn=True),
    "sig": ImageTrigger(lambda image, _: sig(image)),
    "stripes": PatchTrigger(striped_squares),
    "wanet": ImageTrigger(lambda image, _: wanet(image)),
    "yellow": PatchTrigger(yellow_squares),
}
