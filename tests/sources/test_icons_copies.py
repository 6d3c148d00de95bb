"""Near-copies: correlation in shape, exact on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from repro.sources.icons.copies import find_nearest


def shapes(*values: list[int]) -> np.ndarray:
    """Shapes of four pixels."""
    return np.array(values, dtype=np.uint8)


def test_a_shape_in_other_colours_is_a_copy():
    """Darker, lower in contrast, light on dark: all correlate by one. A pixel apart does not."""
    known = shapes([0, 0, 200, 200], [0, 200, 0, 200])
    asked = shapes([100, 100, 150, 150], [200, 200, 0, 0], [10, 90, 10, 90], [0, 0, 0, 200])
    found = find_nearest(asked, known)
    assert found.position.tolist() == [0, 0, 1, 0]
    assert found.similarity[:3] == pytest.approx([1, 1, 1])
    assert found.similarity[3] == pytest.approx(1 / np.sqrt(3))


def test_the_first_of_equal_ones_is_the_nearest_and_a_flat_shape_has_none():
    found = find_nearest(
        shapes([0, 0, 9, 9], [7, 7, 7, 7]), shapes([5, 5, 5, 5], [0, 0, 9, 9], [9, 9, 0, 0])
    )
    assert found.position.tolist() == [1, 0]
    assert found.similarity[1] == 0


def test_similarities_are_those_of_exact_arithmetic():
    """In whole numbers of Python, over more rows than one block holds."""
    rng = np.random.default_rng(0)
    asked, known = (rng.integers(0, 256, (count, 256), dtype=np.uint8) for count in (300, 40))
    found = find_nearest(asked, known)

    def centred(rows: np.ndarray) -> list[list[int]]:
        return [[int(value) - round(float(row.mean())) for value in row] for row in rows]

    wide, narrow = centred(asked), centred(known)
    for i in (0, 255, 256, 299):
        products = [sum(a * b for a, b in zip(wide[i], row, strict=True)) for row in narrow]
        lengths = [sum(b * b for b in row) ** 0.5 for row in narrow]
        own = sum(a * a for a in wide[i]) ** 0.5
        exact = [
            abs(product) / length / own for product, length in zip(products, lengths, strict=True)
        ]
        assert found.position[i] == int(np.argmax(exact))
        assert found.similarity[i] == pytest.approx(max(exact), rel=1e-6)
