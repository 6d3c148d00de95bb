"""Icons of the package: which ones count, their captions, and how they are drawn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repro.sources.icons.drawing import (
    DrawnIcon,
    draw_all,
    draw_icon,
    find_nearest,
    read_icons,
)
from repro.sources.icons.package import Icon, read_sets
from repro.sources.icons.survey import Survey, caption_words, take_survey
from repro.spec import SpecError
from tests.support import icon_package
from tests.support.icon_package import blocks, icon_set, small_package, small_rule


def read(folder: Path, **sets):
    package = icon_package.write_package(folder, sets)
    return {found.name: found for found in read_sets(folder / package.tarball)}


CAPTIONS = {
    "account-circle-outline": "account circle",
    "calendar-2": "calendar",
    "folder-24px": "folder",
    "traffic-light": "traffic light",
    "format-bold": "format bold",
    "battery-5x-v2": "battery",
    "woman-teacher-medium-dark-skin-tone": "woman teacher",
    "fill": "fill",
    "regular-icon": "regular icon",
    "up-2": "",
    "4k": "",
}


def test_styles_sizes_and_numbers_are_no_words_of_a_caption():
    assert {name: caption_words(name) for name in CAPTIONS} == CAPTIONS


def survey(tmp_path: Path, sets: dict[str, dict[str, Any]], **changes: Any) -> Survey:
    rule = small_rule(tmp_path, **changes)
    return take_survey(written(tmp_path, sets), rule)


def written(tmp_path: Path, sets: dict[str, dict[str, Any]]) -> Path:
    folder = tmp_path / "npm"
    return folder / icon_package.write_package(folder, sets).tarball


def test_icons_of_other_licences_or_without_words_are_left_out(tmp_path):
    """29 icons: the licence takes four, the flag one, and two have no words."""
    sets = small_package()
    sets["dan"] = icon_set("dan", {"123": blocks("a"), "tv": blocks("b")})
    found = survey(tmp_path, sets)
    assert len(found.training) == 12
    assert len(found.held_out) == 7
    assert {entry.vendor for entry in found.training} == {"ada", "bea", "cho"}
    assert {entry.vendor for entry in found.held_out} == {"dora", "eve"}


def test_a_vendor_is_held_out_with_all_its_sets(tmp_path):
    sets = small_package()
    sets["dora-old"] = icon_set("dora", {"star": blocks("old star")})
    held_out = survey(tmp_path, sets).held_out
    assert {entry.set for entry in held_out} == {"dora", "dora-old", "eve"}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("held_out_vendors", ["dora", "zoe"], "zoe"),
        ("left_out_sets", ["flags"], "flags"),
    ],
)
def test_a_rule_that_names_nobody_is_refused(tmp_path, field, value, said):
    with pytest.raises(SpecError, match=rf"icons.yaml: {field}: {said} \(allowed: .*ada"):
        survey(tmp_path, small_package(), **{field: value})


SQUARE = (0, 0, 16, 16)


def job(
    body: str, name: str = "icon", box: tuple[float, ...] = SQUARE, palette: bool = False
) -> Icon:
    return Icon("set", name, body, box, palette)


def pixels(drawn: DrawnIcon | None) -> np.ndarray:
    assert drawn is not None
    return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


@pytest.mark.parametrize("body", ["", '<path d="M0 0h16v16h-16z" fill="#444"/>'])
def test_a_body_that_shows_nothing_gives_no_drawing(body: str):
    assert draw_icon(job(body), 32) is None


def test_many_drawings_come_back_in_their_order(tmp_path):
    """Three hundred are three chunks; every third shows nothing, and the others their left half."""
    body = '<path d="M0 0h8v16h-8z" fill="#000"/>'
    bodies = {f"icon-{i}": "" if i % 3 == 0 else body for i in range(301)}
    icons = icon_set("ada", bodies, palette=True)
    package = icon_package.write_package(tmp_path, {"set": icons})
    keys = [("set", f"icon-{i}") for i in range(300)]

    drawn = draw_all(read_icons(tmp_path / package.tarball, set(keys)), 32)

    assert list(drawn) == [key for i, key in enumerate(keys) if i % 3]
    shape = drawn["set", "icon-1"].shape.reshape(16, 16)
    assert (shape[:, :8] == 0).all()
    assert (shape[:, 8:] > 200).all()


def shapes(*values: list[int]) -> np.ndarray:
    """Shapes of four pixels."""
    return np.array(values, dtype=np.uint8)


def test_a_shape_in_other_colours_is_a_copy():
    """A pixel apart correlates less, a flat shape not at all; the first of equal ones is taken."""
    known = shapes(
        [5, 5, 5, 5],
        [0, 0, 200, 200],
        [0, 0, 9, 9],
        [0, 200, 0, 200],
    )
    asked = shapes(
        [100, 100, 150, 150],
        [200, 200, 0, 0],
        [10, 90, 10, 90],
        [0, 0, 0, 200],
        [7, 7, 7, 7],
    )
    similarity, position = find_nearest(asked, known)
    assert position.tolist()[:4] == [1, 1, 3, 1]
    assert similarity == pytest.approx([1, 1, 1, 1 / np.sqrt(3), 0])
