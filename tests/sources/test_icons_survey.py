"""What of the package may be used, by names alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.sources.icons.survey import Survey, take_survey
from repro.spec import SpecError
from tests.support.icon_package import (
    blocks,
    drawings_of,
    icon_set,
    small_package,
    small_rule,
    write_package,
)


def survey(tmp_path: Path, sets: dict[str, dict[str, Any]], **changes: Any) -> Survey:
    package = write_package(tmp_path / "npm", sets)
    return take_survey(tmp_path / "npm" / package.tarball, small_rule(tmp_path, **changes))


def test_every_icon_is_used_or_left_out_for_a_reason(tmp_path):
    """27 icons: the licence takes four, the flag one, and nothing else is amiss."""
    found = survey(tmp_path, small_package())
    assert found.account == {
        "turned": 0,
        "licence": 4,
        "left_out_set": 1,
        "surplus": 0,
        "training": 12,
        "held_out": 7,
    }
    assert found.left_out_sets == {"gpl": "GPL-3.0", "flag": "MIT"}
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
    assert found.training_vendors()["banana"] == {"ada", "cho"}
    assert found.training_vendors()["fruit"] == {"bea"}
    assert ("eve", "star") in {entry.key for entry in found.held_out}


def test_names_without_words_are_counted(tmp_path):
    sets = small_package() | {"bea": icon_set("bea", {"123": blocks("a"), "tv": blocks("b")})}
    assert survey(tmp_path, sets).account["no_words"] == 2


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
