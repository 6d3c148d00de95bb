"""Which drawings look alike: correlation of grey thumbnails, in shape and not in colour.

A one-colour icon's grey is the same function of its shape whatever its colours, up to sign and
scale, so the absolute correlation compares shapes. Thumbnails are whole numbers so small that
float32 holds every sum of products exactly: the answer is the same with any BLAS, on any machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROWS = 64
"""Asked drawings compared at a time: ROWS x N x 4 bytes of memory."""
EXACT = 2**24
"""Whole numbers up to this are exact in float32."""


class Nearest(NamedTuple):
    """Of each of M asked drawings the most similar known one: correlation in [0, 1], position."""

    similarity: NDArray[np.float32]
    position: NDArray[np.int64]


def find_nearest(asked: NDArray[np.uint8], known: NDArray[np.uint8]) -> Nearest:
    """Nearest of the known shapes (N, P) to each asked one (M, P); of several equal the first."""
    asked_values, asked_scale = _centred(asked)
    known_values, known_scale = _centred(known)
    similarity = np.zeros(len(asked), dtype=np.float32)
    position = np.zeros(len(asked), dtype=np.int64)

    # A strip of rows at a time, for the whole table has M x N products.
    for begin in range(0, len(asked), ROWS):
        rows = slice(begin, begin + ROWS)
        products = asked_values[rows] @ known_values.T  # (ROWS, N), exact
        np.abs(products, out=products)
        # The asked drawing's own length is the same for all known ones: no part of the choice.
        products *= known_scale
        best = products.argmax(axis=1)
        position[rows] = best
        similarity[rows] = products[np.arange(len(best)), best] * asked_scale[rows]
    return Nearest(similarity, position)


def _centred(shapes: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shapes less their rounded means, (N, P), and one over their lengths, (N,)."""
    centred = shapes.astype(np.float32)  # whole numbers all the same
    # Rounded means keep the values whole, at the price of means that are not quite zero.
    centred -= np.round(shapes.mean(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
    squares = np.einsum("ij,ij->i", centred, centred)
    # By Cauchy and Schwarz, so are then all products of rows and their partial sums.
    assert (squares < EXACT).all()
    lengths = np.sqrt(np.maximum(squares, 1).astype(np.float64))
    return centred, (1 / lengths).astype(np.float32)
