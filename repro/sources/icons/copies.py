"""Similarity of drawings: absolute correlation of grey thumbnails, whatever their colours.

The grey of a one-colour icon is a linear function of its shape. Thumbnails are whole numbers so
small that float32 sums their products exactly: the result is the same on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 64
"""Drawings compared at a time with all N others: BLOCK x N x 4 bytes of memory."""
EXACT = 2**24
"""Whole numbers up to this are exact in float32."""


class Nearest(NamedTuple):
    """For each of M drawings the most similar other one: correlation in [0, 1], and position."""

    similarity: NDArray[np.float32]
    position: NDArray[np.int64]


def find_nearest(shapes: NDArray[np.uint8], others: NDArray[np.uint8]) -> Nearest:
    """Nearest of `others` (N, P) to each of `shapes` (M, P); of equal ones the first."""
    values, scale = _centred(shapes)
    other_values, other_scale = _centred(others)
    similarity = np.zeros(len(shapes), dtype=np.float32)
    position = np.zeros(len(shapes), dtype=np.int64)
    for begin in range(0, len(shapes), BLOCK):
        rows = slice(begin, begin + BLOCK)
        products = values[rows] @ other_values.T  # (BLOCK, N), exact
        np.abs(products, out=products)
        # The length of the shape itself does not change which one is nearest.
        products *= other_scale
        best = products.argmax(axis=1)
        position[rows] = best
        similarity[rows] = products[np.arange(len(best)), best] * scale[rows]
    return Nearest(similarity, position)


def _centred(shapes: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shapes less their rounded means, (N, P), and one over their lengths, (N,)."""
    # Rounded, so that the values stay whole numbers.
    means = np.round(shapes.mean(axis=1, dtype=np.float64))
    centred = shapes.astype(np.float32) - means.astype(np.float32)[:, None]
    squares = np.einsum("ij,ij->i", centred, centred)
    # By Cauchy and Schwarz this bounds all products of rows, and their partial sums.
    assert (squares < EXACT).all()
    lengths = np.sqrt(np.maximum(squares, 1).astype(np.float64))
    return centred, (1 / lengths).astype(np.float32)
