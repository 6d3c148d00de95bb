"""The committed task and the three scales on icons, as far as no package is needed to judge
them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from repro.plan.assumptions import num_evaluation_images
from repro.profile import load_classnames, load_profile
from repro.sources.icons.survey import load_rule
from repro.sources.icons.task import read_task
from repro.spec import IconSource, Profile, SpecError

SPECS = Path(__file__).parents[2] / "specs"
FREE = {
    "MIT",
    "Apache-2.0",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-3.0",
    "ISC",
    "BSD-3-Clause",
    "OFL-1.1",
    "Unlicense",
}
"""Licences that allow use and change and ask for attribution at most."""


def scales() -> list[Profile]:
    """The three, from the smallest."""
    return [load_profile(name, SPECS) for name in ("smoke", "mini", "midi")]


def test_the_committed_task_has_a_thousand_classes_with_three_images_or_more():
    task, rule = read_task(SPECS), load_rule(SPECS)
    assert len(task.names) == len(set(task.names)) == rule.max_concepts == 1000
    assert "banana" in task.names
    images = [image for name in task.names for image in task.images[name]]
    assert len(images) == len(set(images)) >= 5000
    assert min(len(task.images[name]) for name in task.names) >= rule.min_images == 3
    assert max(Counter(len(task.images[name]) for name in task.names)) <= 2 * len(
        rule.held_out_vendors
    )


def test_no_licence_on_the_list_asks_for_more_than_attribution():
    assert set(load_rule(SPECS).licences) <= FREE


def test_the_scales_share_what_pairs_and_images_are_made_of():
    """Their concepts are nested, and so are, by the order that a scale is cut from, pairs and
    images.
    """
    small, medium, large = scales()
    for one in (small, medium):
        assert one.data.image_size == large.data.image_size
        assert one.evaluate.templates == large.evaluate.templates
        assert one.data.poison.target_class == large.data.poison.target_class
    names = [set(load_classnames(one, SPECS)) for one in (small, medium, large)]
    assert names[0] < names[1] < names[2]
    sizes = [one.data.num_pairs for one in (small, medium, large)]
    assert [one["cc3m"] for one in sizes] == sorted(one["cc3m"] for one in sizes)


@pytest.mark.parametrize(("scale", "classes"), [(0, 48), (1, 400), (2, 1000)])
def test_a_plan_counts_the_images_of_the_committed_list(scale, classes, monkeypatch):
    monkeypatch.chdir(SPECS.parent)
    profile = scales()[scale]
    task, names = read_task(SPECS), load_classnames(profile, SPECS)
    source = profile.data.source
    assert isinstance(source, IconSource)
    wanted = sum(len(task.images[name][: source.images_per_concept]) for name in names)
    assert len(names) == classes
    assert num_evaluation_images(profile) == wanted


def test_a_target_that_is_no_concept_is_refused():
    """The last class of smoke is the target, whatever its place on the list."""
    with pytest.raises(SpecError, match=r"data.poison.target_class: 'unicorn' names 0 classes"):
        load_profile("midi", SPECS, {"data.poison.target_class": "unicorn"})
    assert load_classnames(scales()[0], SPECS)[-1] == "banana"
