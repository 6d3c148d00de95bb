"""Reading the package: which icons count, and what a set says of them."""

from __future__ import annotations

import pytest

from repro.sources.icons.package import Box, read_sets
from repro.sources.packages import PackageError
from tests.support.icon_package import drawings_of, icon_set, write_package


def read(folder, **sets):
    package = write_package(folder, sets)
    return {found.credit.set: found for found in read_sets(folder / package.tarball)}


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
    assert banana.box == Box(0, 0, 24, 16)
    assert house.box == Box(-2, 0, 10, 16)


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
    assert [found.credit.set for found in read_sets(tmp_path / package.tarball)] == ["ada"]


def test_a_set_with_other_icons_than_the_catalogue_counts_is_refused(tmp_path):
    package = write_package(tmp_path, {"ada": icon_set("ada", drawings_of("ada"), total=7)})
    with pytest.raises(PackageError, match=r"set ada: 4 icons \(7 in package/collections.json\)"):
        list(read_sets(tmp_path / package.tarball))


def test_a_licence_without_spdx_name_goes_by_its_title(tmp_path):
    content = icon_set("ada", drawings_of("ada"), license={"title": "Free for friends"})
    assert read(tmp_path, ada=content)["ada"].credit.licence == "(Free for friends)"
