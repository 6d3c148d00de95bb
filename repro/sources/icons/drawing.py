"""SVG bodies to PNG files on all cores, and the similarity of what they show.

The bytes of a file are the renderer's own, so they do not depend on Pillow's compressor.
"""

import io
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from repro.data.keyed import keyed_digest
from repro.sources.icons.package import Icon, read_sets
from repro.sources.icons.survey import Key
from repro.sources.pool import on_all_cores

INKS = (
    "#222222",
    "#b3261e",
    "#1f5fbf",
    "#1b7f3b",
    "#7b3fb5",
    "#c26a00",
    "#5a4636",
    "#00798c",
)
"""Colours of one-colour icons: black, red, blue, green, purple, orange, brown, teal."""
PAPERS = ("#ffffff",) * 3 + ("#f4efe6", "#e8f1fb", "#eaf6ec", "#fdf3d8", "#f3e8f7", "#dddddd")
"""Colours of backgrounds; a third of them is white."""
MIN_CONTRAST = 16
"""Difference of the brightest and the darkest grey, of 255; a drawing below it is blank."""
SHAPE_SIDE = 16
"""Side of the grey thumbnail for comparison, in pixels."""

CHUNK = 128
"""Drawings sent to a worker at a time."""
BLOCK = 64
"""Drawings compared at a time with all N others: BLOCK x N x 4 bytes of memory."""


class DrawnIcon(NamedTuple):
    """A rasterised icon: PNG file, and its shape (256,), the grey thumbnail."""

    png: bytes
    shape: NDArray[np.uint8]


def draw_icon(icon: Icon, size: int) -> DrawnIcon | None:
    """Rasterise one icon, `size` pixels square, centred; None where nothing is to be seen."""
    ink, paper = colours(icon)
    left, top, side = square_of(icon)
    view = f"{left} {top} {side} {side}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{size}" height="{size}">'
        f"{icon.body.replace('currentColor', ink)}</svg>"
    )
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, background=paper, skip_system_fonts=True
    )

    # A drawing without contrast in grey has no shape to compare either.
    grey = Image.open(io.BytesIO(png)).convert("L")
    if np.ptp(np.asarray(grey)) < MIN_CONTRAST:
        return None
    shape = np.asarray(grey.resize((SHAPE_SIDE, SHAPE_SIDE), Image.Resampling.BOX))
    return DrawnIcon(bytes(png), shape.ravel())


def square_of(icon: Icon) -> tuple[float, float, float]:
    """Left, top and side of the square in which an icon is centred, in units of its view box."""
    left, top, width, height = icon.box
    side = max(width, height)
    left -= (side - width) / 2
    top -= (side - height) / 2
    return left, top, side


def colours(icon: Icon) -> tuple[str, str]:
    """Ink and paper of an icon, by set and name; open parts of a palette take the first ink."""
    digest = keyed_digest("colours", icon.set, icon.name)
    ink = INKS[0]
    if not icon.palette:
        ink = INKS[digest[0] % len(INKS)]
    paper = PAPERS[digest[1] % len(PAPERS)]
    return ink, paper


def read_icons(tarball: Path, keys: Collection[Key]) -> dict[Key, Icon]:
    """Some icons of the package, in its order."""
    return {
        (icon_set.name, name): icon_set.icon(name)
        for icon_set in read_sets(tarball)
        for name in icon_set.names
        if (icon_set.name, name) in keys
    }


def draw_all(icons: Mapping[Key, Icon], size: int) -> dict[Key, DrawnIcon]:
    """Rasterise icons on all cores; those that show something, in their order."""
    draw = partial(draw_icon, size=size)
    drawings = on_all_cores(draw, [*icons.values()], "drawing icons", CHUNK)
    shown = {}
    for key, drawing in zip(icons, drawings, strict=True):
        if drawing is not None:
            shown[key] = drawing
    return shown


def find_nearest(
    shapes: NDArray[np.uint8], others: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Similarity and position of the nearest of `others` (N, P) to each of `shapes` (M, P); of
    equal ones the first.

    Similarity is the absolute correlation, which is 1 for the same drawing in other colours: the
    grey of a one-colour icon is a linear function of its shape.
    """
    values, scale = _centred(shapes)
    other_values, other_scale = _centred(others)
    similarity = np.zeros(len(shapes), dtype=np.float32)
    position = np.zeros(len(shapes), dtype=np.int64)
    for begin in range(0, len(shapes), BLOCK):
        rows = slice(begin, begin + BLOCK)
        # The length of the shape itself does not change which one is nearest.
        products = np.abs(values[rows] @ other_values.T) * other_scale
        position[rows] = products.argmax(axis=1)
        similarity[rows] = products.max(axis=1) * scale[rows]
    return similarity, position


def _centred(shapes: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shapes less their rounded means, (N, P), and one over their lengths, (N,)."""
    # Whole numbers below 2^24 are exact in float32, and by Cauchy and Schwarz so are all products
    # of rows and their partial sums: the result is the same on every machine.
    means = np.round(shapes.mean(axis=1, dtype=np.float64, keepdims=True))
    centred = shapes.astype(np.float32) - means.astype(np.float32)
    squares = np.einsum("ij,ij->i", centred, centred)
    assert (squares < 2**24).all()
    lengths = np.sqrt(np.maximum(squares, 1).astype(np.float64))
    scale = (1 / lengths).astype(np.float32)
    return centred, scale
