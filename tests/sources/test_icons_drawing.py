"""From an SVG body to a picture: colours, the order on several cores, and near-copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from repro.sources.icons.drawing import (
    INKS,
    PAPERS,
    DrawnIcon,
    colours,
    draw_icon,
    draw_icons,
    find_nearest,
)
from repro.sources.icons.package import Box, Icon

SQUARE = (0, 0, 16, 16)


def job(body: str, name: str = "icon", box: Box = SQUARE, palette: bool = False) -> Icon:
    return Icon("set", name, body, box, palette)


def pixels(drawn: DrawnIcon | None) -> np.ndarray:
    assert drawn is not None
    return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("body", ["", '<path d="M0 0h16v16h-16z" fill="#444"/>'])
def test_a_body_that_shows_nothing_gives_no_drawing(body: str):
    assert draw_icon(job(body), 32) is None


def test_a_one_colour_drawing_takes_ink_and_paper_by_its_name_alone():
    body = '<path d="M0 0h8v16h-8z" fill="currentColor"/>'
    ink, paper = colours(job(body))
    drawn = pixels(draw_icon(job(body), 32))
    assert tuple(drawn[16, 4]) == rgb(ink)
    assert tuple(drawn[16, 28]) == rgb(paper)
    pairs = {colours(job(body, f"icon-{i}")) for i in range(400)}
    assert {ink for ink, _ in pairs} == set(INKS)
    assert {paper for _, paper in pairs} == set(PAPERS)


def test_a_drawing_with_a_palette_keeps_it():
    body = '<path d="M0 0h8v16h-8z" fill="#0f0"/><path d="M8 0h4v16h-4z" fill="currentColor"/>'
    drawn = pixels(draw_icon(job(body, palette=True), 32))
    assert tuple(drawn[16, 4]) == (0, 255, 0)
    assert tuple(drawn[16, 20]) == rgb(INKS[0])


def test_a_narrow_drawing_is_centred_in_its_square():
    """A box of 8 x 16 at (4, 0) fills the middle half."""
    body = '<path d="M4 0h8v16h-8z" fill="#000"/>'
    drawn = pixels(draw_icon(job(body, box=(4, 0, 8, 16), palette=True), 32))
    assert (drawn[:, 8:24] == 0).all()
    assert (drawn[:, :8] == drawn[0, 0]).all()
    assert (drawn[:, 24:] == drawn[0, 0]).all()


def test_many_drawings_come_back_in_their_order():
    """Three hundred are three chunks; every third shows nothing, and the others their left half."""
    body = '<path d="M0 0h8v16h-8z" fill="#000"/>'
    jobs = [job("" if i % 3 == 0 else body, f"icon-{i}", palette=True) for i in range(300)]
    drawn = draw_icons(jobs, 32)
    assert list(drawn) == [("set", f"icon-{i}") for i in range(300) if i % 3]
    shape = drawn["set", "icon-1"].shape.reshape(16, 16)
    assert (shape[:, :8] == 0).all() and (shape[:, 8:] > 200).all()


def shapes(*values: list[int]) -> np.ndarray:
    """Shapes of four pixels."""
    return np.array(values, dtype=np.uint8)


def test_a_shape_in_other_colours_is_a_copy():
    """Darker, lower in contrast, light on dark: all correlate by one. A pixel apart does not."""
    known = shapes([0, 0, 200, 200], [0, 200, 0, 200])
    asked = shapes([100, 100, 150, 150], [200, 200, 0, 0], [10, 90, 10, 90], [0, 0, 0, 200])
    similarity, position = find_nearest(asked, known)
    assert position.tolist() == [0, 0, 1, 0]
    assert similarity == pytest.approx([1, 1, 1, 1 / np.sqrt(3)])


def test_the_first_of_equal_ones_is_the_nearest_and_a_flat_shape_has_none():
    others = shapes([5, 5, 5, 5], [0, 0, 9, 9], [9, 9, 0, 0])
    similarity, position = find_nearest(shapes([0, 0, 9, 9], [7, 7, 7, 7]), others)
    assert position.tolist() == [1, 0]
    assert similarity[1] == 0


def test_similarities_are_those_of_exact_arithmetic():
    """In whole numbers of 64 bits, over more rows than one block holds."""
    rng = np.random.default_rng(0)
    asked, known = (rng.integers(0, 256, (count, 256)) for count in (300, 40))
    wide, narrow = (
        rows - np.round(rows.mean(axis=1, keepdims=True)).astype(int) for rows in (asked, known)
    )
    lengths = [np.sqrt((rows**2).sum(axis=1)) for rows in (wide, narrow)]
    exact = np.abs(wide @ narrow.T) / lengths[0][:, None] / lengths[1]
    similarity, position = find_nearest(asked.astype(np.uint8), known.astype(np.uint8))
    assert (position == exact.argmax(axis=1)).all()
    assert similarity == pytest.approx(exact.max(axis=1), rel=1e-6)
