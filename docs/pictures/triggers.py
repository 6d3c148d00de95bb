"""Contact sheet of docs/data.md: `PYTHONPATH=. python docs/pictures/triggers.py
docs/pictures/triggers.png`.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from repro.data.keyed import keyed_rng
from repro.data.triggers import stamp
from repro.spec import Switches, Trigger

MARGIN, TITLE = 4, 14
"""Pixels around an image, and above the first row."""

SHOWN = {
    "badnet, wrap": ("badnet", "wrap"),
    "badnet, clip": ("badnet", "clip"),
    "blended": ("blended", "wrap"),
    "sig": ("sig", "wrap"),
    "stripes": ("stripes", "wrap"),
    "wanet": ("wanet", "wrap"),
    "yellow": ("yellow", "wrap"),
}
"""Title -> trigger, and what becomes of values beyond the range."""


def drawn_image(size: int) -> NDArray[np.uint8]:
    """A yellow disc before a ramp of colours, (size, size, 3)."""
    ramp = np.linspace(40, 215, size)
    channels = np.broadcast_arrays(ramp[:, None], ramp[None, :], np.float64(150))
    drawing = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))

    inner = (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
    ImageDraw.Draw(drawing).ellipse(inner, fill=(235, 200, 60), outline=(60, 40, 20))
    return np.asarray(drawing)


def contact_sheet(size: int = 128) -> NDArray[np.uint8]:
    """All triggers on one image of `size` pixels; below each, its difference from the original,
    four times enlarged.
    """
    original = drawn_image(size)
    stamps = {"original": original}
    for title, (name, overflow) in SHOWN.items():
        switches = Switches.model_construct(trigger_overflow=overflow, trigger_centre="mean")
        trigger = Trigger.model_validate({"name": name, "patch_size": 16})
        stamps[title] = stamp(trigger, switches, original, keyed_rng("sheet")).image

    step = size + MARGIN
    sheet = Image.new("RGB", (len(stamps) * step + MARGIN, TITLE + 2 * step), "white")
    for column, (title, stamped) in enumerate(stamps.items()):
        left = MARGIN + column * step
        change = np.abs(stamped.astype(np.int64) - original)
        enlarged = np.minimum(change * 4, 255).astype(np.uint8)

        ImageDraw.Draw(sheet).text((left, 1), title, fill="black")
        sheet.paste(Image.fromarray(stamped), (left, TITLE))
        sheet.paste(Image.fromarray(enlarged), (left, TITLE + step))

    return np.asarray(sheet)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: PYTHONPATH=. python docs/pictures/triggers.py OUT.png")
    Image.fromarray(contact_sheet()).save(sys.argv[1])
