"""Icons of the package: which ones count, their captions, and which may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.sources.icons.package import read_sets
from repro.sources.icons.survey import Survey, caption_words, take_survey
from repro.spec import SpecError
from tests.support.icon_package import (
    blocks,
    drawings_of,
    icon_set,
    small_package,
    small_rule,
    write_package,
)


def read(folder: Path, **sets):
    package = write_package(folder, sets)
    return {found.name: found for found in read_sets(folder / package.tarball)}


def test_withdrawn_icons_do_not_count_and_turned_ones_draw_nothing(tmp_path):
    content = icon_set("ada", drawings_of("ada"))
    content["icons"]["tree"]["hidden"] = True
    content["aliases"] = {"home": {"parent": "house"}, "rats": {"parent": "star", "hFlip": True}}
    found = read(tmp_path, ada=content)["ada"]
    assert [icon.name for icon in found.icons] == ["banana", "house", "star"]
    assert found.turned == 1


def test_a_box_comes_from_the_icon_then_from_its_set_then_from_the_default(tmp_path):
    content = icon_set("ada", drawings_of("ada", ["banana", "house"]), content={"width": 24})
    content["icons"]["house"] |= {"width": 10, "left": -2}
    banana, house = read(tmp_path, ada=content)["ada"].icons
    assert banana.box == (0, 0, 24, 16)
    assert house.box == (-2, 0, 10, 16)


def test_logos_are_told_by_the_set_its_categories_or_the_name(tmp_path):
    names = ["banana", "house", "brand-x"]
    mixed = icon_set(
        "ada",
        drawings_of("ada", names),
        content={"categories": {"Brands": ["house"], "Food": ["banana"]}},
    )
    found = read(
        tmp_path, ada=mixed, logos=icon_set("bea", drawings_of("bea", names), category="Logos")
    )
    assert [icon.name for icon in found["ada"].icons if icon.is_logo] == ["house", "brand-x"]
    assert all(icon.is_logo for icon in found["logos"].icons)


def test_a_set_that_the_catalogue_does_not_list_is_not_read(tmp_path):
    sets = {name: icon_set(name, drawings_of(name)) for name in ("ada", "bea")}
    package = write_package(tmp_path, sets, unlisted={"bea"})
    assert [found.name for found in read_sets(tmp_path / package.tarball)] == ["ada"]


def test_a_licence_without_spdx_name_goes_by_its_title(tmp_path):
    content = icon_set("ada", drawings_of("ada"), license={"title": "Free for friends"})
    assert read(tmp_path, ada=content)["ada"].licence == "(Free for friends)"


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("account-circle-outline", "account circle"),
        ("calendar-2", "calendar"),
        ("folder-24px", "folder"),
        ("traffic-light", "traffic light"),
        ("format-bold", "format bold"),
        ("battery-5x-v2", "battery"),
        ("woman-teacher-medium-dark-skin-tone", "woman teacher"),
        ("fill", "fill"),
        ("regular-icon", "regular icon"),
        ("up-2", ""),
        ("4k", ""),
    ],
)
def test_styles_sizes_and_numbers_are_no_words_of_a_caption(name: str, caption: str):
    assert caption_words(name) == caption


def test_a_set_says_which_endings_are_styles():
    """The longest declared one goes, and only at its end of the name."""
    suffixes = ["light", "broken", "light-duotone"]
    assert caption_words("sun-light-duotone", suffixes) == "sun"
    assert caption_words("traffic-light-broken", suffixes) == "traffic light"
    assert caption_words("sharp-home", prefixes=["sharp"]) == "home"


def survey(tmp_path: Path, sets: dict[str, dict[str, Any]], **changes: Any) -> Survey:
    package = write_package(tmp_path / "npm", sets)
    return take_survey(tmp_path / "npm" / package.tarball, small_rule(tmp_path, **changes))


def test_every_icon_is_used_or_left_out_for_a_reason(tmp_path):
    """29 icons: the licence takes four, the flag one, and two have no words."""
    sets = small_package() | {"dan": icon_set("dan", {"123": blocks("a"), "tv": blocks("b")})}
    found = survey(tmp_path, sets)
    assert found.account == {
        "turned": 0,
        "licence": 4,
        "no_words": 2,
        "left_out_set": 1,
        "surplus": 0,
        "training": 12,
        "held_out": 7,
    }
    assert {entry.vendor for entry in found.training} == {"ada", "bea", "cho"}
    assert {entry.vendor for entry in found.held_out} == {"dora", "eve"}


def test_a_vendor_is_held_out_with_all_its_sets(tmp_path):
    sets = small_package() | {"dora-old": icon_set("dora", {"star": blocks("old star")})}
    assert {entry.set for entry in survey(tmp_path, sets).held_out} == {"dora", "dora-old", "eve"}


def test_of_one_caption_a_set_gives_only_so_many_and_the_same_ones_always(tmp_path):
    house = {f"house-{i}": blocks(f"house {i}") for i in range(9)}
    sets = small_package() | {"ada": icon_set("ada", drawings_of("ada", ["star"]) | house)}
    found = [survey(tmp_path / name, sets) for name in "ab"]
    names = [[e.name for e in one.training if e.set == "ada"] for one in found]
    assert names[0] == names[1]
    assert len([name for name in names[0] if name.startswith("house")]) == 2
    assert found[0].account["surplus"] == 7


def test_a_drawing_handed_on_unchanged_is_no_drawing_of_another_vendor(tmp_path):
    """Under another caption it is another pair; among the held-out ones it is a near-copy, not a
    duplicate.
    """
    sets = small_package()
    sets["bea"] = icon_set(
        "bea", {"banana": blocks("ada", "banana"), "fruit": blocks("ada", "banana")}
    )
    found = survey(tmp_path, sets)
    assert found.account["identical"] == 1
    assert found.vendors["banana"] == {"ada", "cho"}
    assert found.vendors["fruit"] == {"bea"}
    assert ("eve", "star") in {entry.key for entry in found.held_out}


def test_a_caption_is_a_brand_where_too_many_vendors_file_it_under_logos(tmp_path):
    """One of five vendors that draw a star does, which is a fifth and no more; with the house
    two of five do.
    """
    filed = {"ada": ["star", "house"], "bea": ["house"]}
    sets = small_package()
    for name, icons in filed.items():
        sets[name]["categories"] = {"Logos": icons}
    assert survey(tmp_path, sets).brands == {"house"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "held_out_vendors",
            ["dora", "zoe"],
            r"icons.yaml: held_out_vendors: zoe \(allowed: .*ada",
        ),
        ("left_out_sets", ["flags"], r"icons.yaml: left_out_sets: flags \(allowed: "),
    ],
)
def test_a_rule_that_names_nobody_is_refused(tmp_path, field, value, message):
    with pytest.raises(SpecError, match=message):
        survey(tmp_path, small_package(), **{field: value})
