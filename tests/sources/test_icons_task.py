"""The zero-shot task: concepts by the number of vendors, images by held-out vendors, and the lists
in the repository.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from repro.plan.assumptions import num_evaluation_images
from repro.profile import load_classnames, load_profile
from repro.sources.icons.survey import IconEntry, Key, Survey, load_rule
from repro.sources.icons.task import check_task, check_whole, read_task, settle, write_task
from repro.spec import IconSource, SpecError
from tests.support.icon_package import small_rule

TASK: dict[str, list[Key]] = {
    "star": [("s", "star"), ("t", "star")],
    "house": [("s", "home:1")],
}
SPECS = Path(__file__).parents[2] / "specs"
FREE = r"MIT|Apache-2\.0|CC0-1\.0|CC-BY-[34]\.0|ISC|BSD-3-Clause|OFL-1\.1|Unlicense"
"""Licences that allow use and change and ask for attribution at most."""


def drawn(captions: str, vendors: str, per_vendor: int = 1) -> list[IconEntry]:
    """Drawings of each caption (a letter) by each vendor (a letter)."""
    return [
        IconEntry(vendor, f"{caption}-{i}", vendor, caption)
        for vendor in vendors
        for caption in captions
        for i in range(per_vendor)
    ]


def survey(
    folder: Path, training: list[IconEntry], held_out: list[IconEntry], **rule: Any
) -> Survey:
    return Survey(Path(), small_rule(folder, **rule), training, held_out)


def test_concepts_have_enough_vendors_and_are_no_brands(tmp_path):
    """`a` is drawn by three, `b` by three but a brand, `c` by two."""
    made = survey(tmp_path, drawn("abc", "xy") + drawn("ab", "z"), drawn("abc", "hk"))
    made.brands = {"b"}
    assert made.candidates.keys() == {"a"}


def test_a_vendor_gives_only_so_many_images_of_a_concept_and_the_same_ones_always(tmp_path):
    held_out = drawn("a", "hk", per_vendor=9)
    one, other = (
        survey(tmp_path, drawn("a", "xyz"), entries).candidates["a"]
        for entries in (held_out, held_out[::-1])
    )
    assert sorted(entry.vendor for entry in one) == ["h", "h", "k", "k"]
    assert one == other


def test_concepts_stand_most_drawn_first_and_lose_near_copies_and_then_their_place(tmp_path):
    """`c` has four vendors, `a` and `b` three; one image of `b` is left and two are needed."""
    training, held_out = drawn("abc", "xyz") + drawn("c", "w"), drawn("abc", "hk")
    made = survey(tmp_path, training, held_out, min_images=2)
    usable = {entry.key for entry in held_out}
    assert list(settle(made, usable)) == ["c", "a", "b"]
    task = settle(made, usable - {("h", "b-0")})
    assert {name: len(images) for name, images in task.items()} == {"c": 2, "a": 2}
    assert list(settle(survey(tmp_path, training, held_out, max_concepts=1), usable)) == ["c"]


def test_the_lists_are_read_as_they_were_written(tmp_path):
    (tmp_path / "classnames").mkdir()
    write_task(TASK, tmp_path)
    assert read_task(tmp_path) == TASK
    assert list(read_task(tmp_path)) == list(TASK)


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


def test_an_image_that_is_no_candidate_for_its_class_is_refused(tmp_path):
    made = survey(tmp_path, drawn("a", "xyz"), drawn("a", "h"))
    check_task({"a": [("h", "a-0")]}, made)
    with pytest.raises(SpecError, match=r"icons-images.txt: a: k:a-0 is no drawing of it"):
        check_task({"a": [("h", "a-0"), ("k", "a-0")]}, made)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (dict(reversed(TASK.items())), r"\('star', .*is not what the package gives \(\('house'"),
        (TASK | {"house": [("t", "home")]}, r"\('house', .*is not what the package gives"),
        ({"star": TASK["star"]}, r"\('house', .*is not what the package gives \(None\)"),
    ],
)
def test_lists_that_the_rule_does_not_give_are_refused_where_they_differ(built, message):
    check_whole(TASK, TASK)
    with pytest.raises(SpecError, match=message):
        check_whole(TASK, built)


def test_the_committed_task_has_a_thousand_classes_with_three_images_or_more():
    task, rule = read_task(SPECS), load_rule(SPECS)
    assert len(task) == rule.max_concepts == 1000 and "banana" in task
    images = Counter(image for images in task.values() for image in images)
    assert max(images.values()) == 1 and len(images) >= 5000
    assert min(map(len, task.values())) >= rule.min_images == 3
    assert all(re.fullmatch(FREE, licence) for licence in rule.licences)


def test_the_scales_share_what_pairs_and_images_are_made_of(monkeypatch):
    """Their concepts are nested; the last class of smoke is the target, whatever its place on the
    list; a plan counts the images of the list.
    """
    monkeypatch.chdir(SPECS.parent)
    profiles = [load_profile(name) for name in ("smoke", "mini", "midi")]
    task, names = read_task(), [load_classnames(profile) for profile in profiles]
    assert [len(classes) for classes in names] == [48, 400, 1000]
    assert set(names[0]) < set(names[1]) < set(names[2]) and names[0][-1] == "banana"
    shared = {
        (p.data.image_size, str(p.evaluate.templates), p.data.poison.target_class) for p in profiles
    }
    assert len(shared) == 1
    for profile, classes in zip(profiles, names, strict=True):
        source = profile.data.source
        assert isinstance(source, IconSource)
        images = sum(len(task[name][: source.images_per_concept]) for name in classes)
        assert num_evaluation_images(profile) == images
