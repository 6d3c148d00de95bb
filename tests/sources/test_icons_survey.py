"""Icons of the package: which ones count, their captions, and how they are drawn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repro.sources.icons import drawing
from repro.sources.icons.drawing import (
    DrawnIcon,
    colours,
    draw_all,
    draw_icon,
    find_nearest,
    read_icons,
)
from repro.sources.icons.package import Icon, read_sets
from repro.sources.icons.survey import Survey, caption_words, take_survey
from repro.spec import SpecError
from tests.support import icon_package
from tests.support.icon_package import blocks, drawings_of, icon_set, small_package, small_rule
from tools.icon_task import brands_of, logos_of, vendors_of


def read(folder: Path, **sets):
    package = icon_package.write_package(folder, sets)
    return {found.name: found for found in read_sets(folder / package.tarball)}


def test_withdrawn_icons_do_not_count(tmp_path):
    content = icon_set("ada", drawings_of("ada"))
    content["icons"]["tree"]["hidden"] = True
    found = read(tmp_path, ada=content)["ada"]
    assert found.names == ["banana", "house", "star"]


def test_a_box_comes_from_the_icon_then_from_its_set_then_from_the_default(tmp_path):
    content = icon_set("ada", drawings_of("ada", ["banana", "house"]), content={"width": 24})
    content["icons"]["house"] |= {"width": 10, "left": -2}
    found = read(tmp_path, ada=content)["ada"]
    banana, house = map(found.icon, found.names)
    assert banana.box == (0, 0, 24, 16)
    assert house.box == (-2, 0, 10, 16)


def test_logos_are_told_by_the_set_its_categories_or_the_name(tmp_path):
    names = ["banana", "house", "brand-x"]
    drawings = drawings_of("ada", names)
    filed = {"categories": {"Brands": ["house"], "Food": ["banana"]}}
    logos = icon_set("bea", drawings, category="Logos")
    found = read(tmp_path, ada=icon_set("ada", drawings, content=filed), logos=logos)
    assert logos_of(found["ada"]) == {"house", "brand-x"}
    assert logos_of(found["logos"]) == set(names)


def test_a_set_that_the_catalogue_does_not_list_is_not_read(tmp_path):
    """A licence without an SPDX name goes by its title."""
    friends = {"title": "Free for friends"}
    sets = {name: icon_set(name, drawings_of(name), license=friends) for name in ("ada", "bea")}
    package = icon_package.write_package(tmp_path, sets, unlisted={"bea"})
    (found,) = read_sets(tmp_path / package.tarball)
    assert found.name == "ada"
    assert found.licence == "(Free for friends)"


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


def test_a_set_says_which_endings_are_styles():
    """The longest declared one goes, and only at its end of the name."""
    suffixes = ["light", "broken", "light-duotone"]
    assert caption_words("sun-light-duotone", suffixes) == "sun"
    assert caption_words("traffic-light-broken", suffixes) == "traffic light"
    assert caption_words("sharp-home", prefixes=["sharp"]) == "home"


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


def test_of_one_caption_a_set_gives_only_so_many_and_the_same_ones_always(tmp_path):
    house = {f"house-{i}": blocks(f"house {i}") for i in range(9)}
    sets = small_package()
    sets["ada"] = icon_set("ada", drawings_of("ada", ["star"]) | house)

    def names_in(folder: Path) -> list[str]:
        training = survey(folder, sets).training
        return [entry.name for entry in training if entry.set == "ada"]

    names = names_in(tmp_path / "a")
    assert names_in(tmp_path / "b") == names
    houses = [name for name in names if name.startswith("house")]
    assert len(houses) == 2


def test_a_drawing_handed_on_unchanged_is_no_drawing_of_another_vendor(tmp_path):
    """Under another caption it is another pair; among held-out ones a near-copy, no duplicate."""
    sets = small_package()
    sets["bea"] = icon_set("bea", dict.fromkeys(["banana", "fruit"], blocks("ada", "banana")))
    found = survey(tmp_path, sets)
    vendors = vendors_of(found.training)
    assert vendors["banana"] == {"ada", "cho"}
    assert vendors["fruit"] == {"bea"}
    assert ("eve", "star") in {entry.key for entry in found.held_out}


def test_a_caption_is_a_brand_where_too_many_vendors_file_it_under_logos(tmp_path):
    """One of five vendors does for the star, a fifth and no more; for the house two of five do."""
    filed = {"ada": ["star", "house"], "bea": ["house"]}
    sets = small_package()
    for name, icons in filed.items():
        sets[name]["categories"] = {"Logos": icons}
    assert brands_of(written(tmp_path, sets), small_rule(tmp_path)) == {"house"}


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
    assert {ink for ink, _ in pairs} == set(drawing.INKS)
    assert {paper for _, paper in pairs} == set(drawing.PAPERS)


def test_a_drawing_with_a_palette_keeps_it():
    body = '<path d="M0 0h8v16h-8z" fill="#0f0"/><path d="M8 0h4v16h-4z" fill="currentColor"/>'
    drawn = pixels(draw_icon(job(body, palette=True), 32))
    assert tuple(drawn[16, 4]) == (0, 255, 0)
    assert tuple(drawn[16, 20]) == rgb(drawing.INKS[0])


def test_a_narrow_drawing_is_centred_in_its_square():
    """A box of 8 x 16 at (4, 0) fills the middle half."""
    body = '<path d="M4 0h8v16h-8z" fill="#000"/>'
    icon = job(body, box=(4, 0, 8, 16), palette=True)
    drawn = pixels(draw_icon(icon, 32))
    ground = drawn[0, 0]
    assert (drawn[:, 8:24] == 0).all()
    assert (drawn[:, :8] == ground).all()
    assert (drawn[:, 24:] == ground).all()


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


def centred(rows: np.ndarray) -> np.ndarray:
    """Less their mean, in whole numbers."""
    means = np.round(rows.mean(axis=1, keepdims=True))
    found: np.ndarray = rows - means.astype(int)
    return found


def lengths(rows: np.ndarray) -> np.ndarray:
    squares: np.ndarray = (rows**2).sum(axis=1)
    return np.asarray(np.sqrt(squares))


def test_similarities_are_those_of_exact_arithmetic():
    """In whole numbers of 64 bits, over more rows than one block holds."""
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 256, (300, 256))
    known = rng.integers(0, 256, (40, 256))
    one, other = centred(asked), centred(known)
    products = np.abs(one @ other.T)
    exact = products / lengths(one)[:, None] / lengths(other)

    similarity, position = find_nearest(asked.astype(np.uint8), known.astype(np.uint8))

    assert (position == exact.argmax(axis=1)).all()
    assert similarity == pytest.approx(exact.max(axis=1), rel=1e-6)
