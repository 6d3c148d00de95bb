"""The zero-shot task: concepts by the number of vendors, images by held-out vendors, lists in
the repository.
"""

from __future__ import annotations

import pytest

from repro.sources.icons.survey import IconEntry, Survey
from repro.sources.icons.task import (
    ZeroShotTask,
    check_task,
    check_whole,
    find_candidates,
    read_task,
    settle,
    write_task,
)
from repro.spec import SpecError
from tests.support.icon_package import small_rule

TASK = ZeroShotTask(
    ("star", "house"), {"star": (("s", "star"), ("t", "star")), "house": (("s", "home:1"),)}
)


def drawn(captions: str, vendors: str, per_vendor: int = 1) -> list[IconEntry]:
    """Drawings of each caption (a letter) by each vendor (a letter)."""
    return [
        IconEntry(vendor, f"{caption}-{i}", vendor, caption)
        for vendor in vendors
        for caption in captions
        for i in range(per_vendor)
    ]


def test_concepts_have_enough_vendors_and_are_no_brands(tmp_path):
    """`a` is drawn by three, `b` by three but a brand, `c` by two."""
    survey = Survey(training=drawn("abc", "xy") + drawn("ab", "z"), held_out=drawn("abc", "hk"))
    survey.brands = {"b"}
    assert find_candidates(survey, small_rule(tmp_path)).keys() == {"a"}


def test_a_vendor_gives_only_so_many_images_of_a_concept_and_the_same_ones_always(tmp_path):
    survey = Survey(training=drawn("a", "xyz"), held_out=drawn("a", "hk", per_vendor=9))
    found = find_candidates(survey, small_rule(tmp_path))["a"]
    assert sorted(entry.vendor for entry in found) == ["h", "h", "k", "k"]
    survey.held_out.reverse()
    assert find_candidates(survey, small_rule(tmp_path))["a"] == found


def test_concepts_stand_most_drawn_first_and_lose_near_copies_and_then_their_place(tmp_path):
    """`c` has four vendors, `a` and `b` three; one image of `b` is left and two are needed."""
    survey = Survey(training=drawn("abc", "xyz") + drawn("c", "w"), held_out=drawn("abc", "hk"))
    strict = small_rule(tmp_path, min_images=2)
    candidates = find_candidates(survey, strict)
    assert settle(candidates, survey, strict, ()).names == ("c", "a", "b")
    task = settle(candidates, survey, strict, {("h", "b-0")})
    assert task.names == ("c", "a")
    assert {name: len(images) for name, images in task.images.items()} == {"c": 2, "a": 2}
    assert settle(candidates, survey, small_rule(tmp_path, max_concepts=1), ()).names == ("c",)


def test_the_lists_are_read_as_they_were_written(tmp_path):
    (tmp_path / "classnames").mkdir()
    write_task(TASK, tmp_path)
    assert read_task(tmp_path) == TASK


@pytest.mark.parametrize("line", ["moon\ts:moon", "star s:star", "star\tstar", ""])
def test_a_line_of_another_form_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "classnames").mkdir()
    write_task(TASK, tmp_path)
    path = tmp_path / "classnames" / "icons-images.txt"
    path.write_text(f"star\ts:star\n{line}\nstar\tt:star\n")
    with pytest.raises(
        SpecError, match=r"icons-images.txt: line 2: .* \(allowed: a class of icons.txt"
    ):
        read_task(tmp_path)


def test_an_image_that_is_no_candidate_for_its_class_is_refused():
    candidates = {
        "star": [IconEntry("s", "star", "s", "star")],
        "house": [IconEntry("s", "home:1", "s", "house")],
    }
    with pytest.raises(SpecError, match=r"icons-images.txt: star: t:star is no drawing of it"):
        check_task(TASK, candidates)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (
            ZeroShotTask(("house", "star"), TASK.images),
            r"icons.txt: line 1: 'star' is not what the package gives \('house'\)",
        ),
        (
            ZeroShotTask(TASK.names, TASK.images | {"house": (("t", "home"),)}),
            r"icons-images.txt: images of 'house'",
        ),
        (ZeroShotTask(("star",), TASK.images), r"icons.txt: 2 names \(the package gives 1\)"),
    ],
)
def test_lists_that_the_rule_does_not_give_are_refused_where_they_differ(built, message):
    check_whole(TASK, TASK)
    with pytest.raises(SpecError, match=message):
        check_whole(TASK, built)
