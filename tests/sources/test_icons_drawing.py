"""From an SVG body to a picture: what is refused, colours, and the order on several cores."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from repro.sources.icons.drawing import (
    INKS,
    PAPERS,
    DrawingJob,
    DrawnIcon,
    Refused,
    colours,
    draw_icon,
    draw_icons,
)
from repro.sources.icons.package import Box

SQUARE = Box(0, 0, 16, 16)


def job(body: str, name: str = "icon", box: Box = SQUARE, palette: bool = False) -> DrawingJob:
    return DrawingJob("set", name, body, box, palette)


def pixels(drawn: DrawnIcon | Refused) -> np.ndarray:
    assert isinstance(drawn, DrawnIcon)
    return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<script>alert(1)</script>", "unsafe_element"),
        ('<image href="#a"/>', "unsafe_element"),
        ("<foreignObject/>", "unsafe_element"),
        ("<style>path{}</style>", "unsafe_element"),
        ("<!DOCTYPE svg>", "unsafe_element"),
        ("<?xml-stylesheet?>", "unsafe_element"),
        ('<path d="M0 0h16v16z" onload="x()"/>', "unsafe_script"),
        ('<use href="https://example.org/a.svg#b"/>', "unsafe_reference"),
        ('<use xlink:href="file:///etc/passwd"/>', "unsafe_reference"),
        ('<path d="M0 0h16v16z" fill="url(http://example.org)"/>', "unsafe_reference"),
        ('<path d="M0 0h16v16z" fill="url( &quot;a.svg#b&quot;)"/>', "unsafe_reference"),
        ('<path d="M0 0h16v16z"', "unreadable"),
        ("", "blank"),
        ('<path d="M0 0h16v16h-16z" fill="#444"/>', "blank"),
    ],
)
def test_bodies_that_reach_outside_or_show_nothing_are_refused_by_reason(body: str, reason: str):
    assert draw_icon(job(body), 32) == Refused(reason)


@pytest.mark.parametrize("quote", ["", "&quot;", "'"])
def test_references_to_parts_of_the_drawing_itself_are_followed(quote: str):
    red = '<defs><linearGradient id="a"><stop stop-color="red"/></linearGradient></defs>'
    body = f'{red}<path d="M0 0h8v16h-8z" fill="url({quote}#a{quote})"/>'
    assert tuple(pixels(draw_icon(job(body), 32))[16, 4]) == (255, 0, 0)


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
    drawn = pixels(draw_icon(job(body, box=Box(4, 0, 8, 16), palette=True), 32))
    assert (drawn[:, 8:24] == 0).all()
    assert (drawn[:, :8] == drawn[0, 0]).all()
    assert (drawn[:, 24:] == drawn[0, 0]).all()


def test_a_shape_is_the_grey_picture_in_blocks_of_two_pixels():
    body = '<path d="M0 0h8v16h-8z" fill="#000"/>'
    drawn = draw_icon(job(body, palette=True), 32)
    assert isinstance(drawn, DrawnIcon)
    assert drawn.shape.shape == (256,)
    assert (drawn.shape.reshape(16, 16)[:, :8] == 0).all()
    assert (drawn.shape.reshape(16, 16)[:, 8:] > 200).all()


def test_many_drawings_come_back_in_their_order():
    """Three hundred are three chunks; every third shows nothing."""
    body = '<path d="M0 0h8v16h-8z" fill="#000"/>'
    jobs = [job("" if i % 3 == 0 else body, f"icon-{i}") for i in range(300)]
    results = list(draw_icons(iter(jobs), len(jobs), 32))
    assert [done.name for done, _ in results] == [f"icon-{i}" for i in range(300)]
    assert [isinstance(result, Refused) for _, result in results] == [
        i % 3 == 0 for i in range(300)
    ]
