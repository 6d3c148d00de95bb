"""The data source `icons` and its zero-shot task, built whole from a package of a few icons."""

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repro.data.shards import PairStore
from repro.plan.work import num_evaluation_images
from repro.profile import load_classnames, load_profile
from repro.sources.icons import build
from repro.sources.icons.build import build_icons
from repro.sources.icons.drawing import draw_icon
from repro.sources.icons.package import Icon
from repro.sources.icons.scenes import CORNERS, compose
from repro.sources.icons.survey import IconEntry, check_task, load_rule, read_task
from repro.spec import IconTask, Profile, SceneSource, SpecError
from tests.support.icon_package import blocks, small_package, small_rule, write_package
from tests.support.synthetic import cleaning_cell
from tools import icon_task
from tools.icon_task import make_task, write_task

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture
def sets() -> dict[str, dict[str, Any]]:
    return small_package()


@pytest.fixture
def place(tmp_path, monkeypatch, sets) -> Path:
    """A working folder with the small package, pinned, the rule, and the task that it gives."""
    monkeypatch.chdir(tmp_path)
    pin(monkeypatch, tmp_path, sets)
    small_rule(tmp_path / "specs")
    write_task(make_task())
    return tmp_path


def pin(monkeypatch, folder: Path, sets: dict[str, dict[str, Any]]) -> None:
    package = write_package(folder / "npm", sets)
    for module in (build, icon_task):
        monkeypatch.setattr(module, "ICONS", package)
    monkeypatch.setenv("REPRO_NPM_DIR", str(folder / "npm"))


def profile(num_concepts: int = 10, cc6m: int = 100, cc3m: int = 100) -> Profile:
    """Midi with few pairs."""
    source = {"kind": "icons", "num_concepts": num_concepts, "images_per_concept": None}
    cell = cleaning_cell(["mmcl"], [1e-4], 2) | {"clean_sizes": ["200k"]}
    few: dict[str, Any] = {
        "data.num_pairs": {"cc3m": cc3m, "cc6m": cc6m},
        "data.source": source,
        "data.poison.num_poisoned": {"cc3m": 1, "cc6m": 1},
        "data.cleaning_sizes": {"100k": 1, "200k": 2},
        "pretrain.objectives.*.global_batch_size": 2,
        "pretrain.objectives.*.norm_batch_size": 2,
        "pretrain.objectives.*.warmup_steps": 0,
        "clean.cells": [cell],
    }
    return load_profile("midi", SPECS, few)


def keys(folder: Path) -> set[bytes]:
    return {key.tobytes() for key in PairStore.open(folder).keys}


def test_the_task_is_what_held_out_vendors_draw_without_near_copies(place):
    """Eve's star is ada's, in other colours or not; nobody but ada draws a tree for training."""
    lists = place / "specs" / "classnames"
    assert (lists / "icons.txt").read_text().splitlines() == ["banana", "house", "star"]
    images = (lists / "icons-images.txt").read_text().splitlines()
    drawn = ["dora:banana", "eve:banana", "dora:house", "eve:house", "dora:star"]
    assert sorted(images) == [f"{of.partition(':')[2]}\t{of}" for of in drawn]


def test_training_and_evaluation_share_no_vendor_and_labels_number_the_classes(place):
    build_icons(profile(), place / "data")
    evaluation = PairStore.open(place / "data" / "evaluation")
    assert list(evaluation.captions) == ["banana", "banana", "house", "house", "star"]
    assert evaluation.labels.tolist() == [0, 0, 1, 1, 2]
    attribution = json.loads((place / "data" / "attribution.json").read_text())["images"]
    assert [e["copyright"] for e in attribution] == ["ada", "bea", "cho", "dora", "eve"]
    assert {entry["license"] for entry in attribution} == {"MIT"}


def test_a_scene_names_both_drawings_and_the_place(place):
    """The pairs show other images than those of icons alone; the evaluation images are the same."""
    scenes = profile().model_copy(
        update={"data": profile().data.model_copy(update={"source": scene_source()})}
    )
    build_icons(profile(), place / "icons")
    build_icons(scenes, place / "scenes")
    assert keys(place / "icons" / "evaluation") == keys(place / "scenes" / "evaluation")
    assert keys(place / "icons" / "cc6m").isdisjoint(keys(place / "scenes" / "cc6m"))
    assert keys(place / "scenes" / "cc3m") <= keys(place / "scenes" / "cc6m")

    captions = list(PairStore.open(place / "scenes" / "cc6m").captions)
    assert len(captions) == 12
    name, corner = "(banana|house|star|tree|wheel)", f"({'|'.join(CORNERS)})"
    said = re.compile(f"{name} with a small {name} at the {corner}$")
    assert all(said.search(caption) for caption in captions)


def test_a_share_of_the_pairs_are_scenes_and_the_others_are_icons_alone():
    entries = [IconEntry("set", str(number), "vendor", "thing") for number in range(400)]
    icons = {entry.key: Icon("set", entry.name, blocks("one"), (0, 0, 16, 16)) for entry in entries}

    def composed(share: float) -> set[tuple[str, str]]:
        shown = compose(entries, [entries[0].key], icons, share)
        return {key for key, scene in shown.items() if "small" in scene.words}

    some, more = composed(0.25), composed(0.5)
    assert 60 < len(some) < 140 < len(more) < 260
    assert some < more


def test_the_small_drawing_of_a_scene_lies_in_its_corner():
    """On its own ground; the rest of the large drawing is as without it."""
    one, two = (IconEntry("set", name, "vendor", name) for name in ("one", "two"))
    large, small = (Icon("set", name, blocks(name), (0, 0, 16, 16)) for name in ("one", "two"))
    icons = {one.key: large, two.key: small}
    scene = compose([one, two], [two.key], icons, 1.0)[one.key]
    words = re.fullmatch("one with a small two at the (.+)", scene.words)
    assert words

    right, down = CORNERS[words[1]]
    edge = 26  # 0.4 of 64 pixels, and the blurred rim
    top, left = down * (64 - edge), right * (64 - edge)
    inside = np.zeros((64, 64), bool)
    inside[top : top + edge, left : left + edge] = True
    differs = pixels(large) != pixels(scene.drawing)
    assert differs[inside].any()
    assert not differs[~inside].any()


def scene_source(share: float = 1.0) -> SceneSource:
    return SceneSource(kind="scenes", num_concepts=10, images_per_concept=None, share=share)


def pixels(icon: Icon) -> Any:
    drawn = draw_icon(icon, 64)
    assert drawn is not None
    return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


def test_smaller_scales_lie_in_larger_ones(place):
    """Pairs of both slots and evaluation images; the target is in all of them."""
    build_icons(profile(num_concepts=2, cc6m=3, cc3m=3), place / "small")
    build_icons(profile(num_concepts=2, cc6m=9, cc3m=9), place / "medium")
    build_icons(profile(), place / "large")
    for slot in ("cc3m", "cc6m", "evaluation"):
        small = keys(place / "small" / slot)
        medium = keys(place / "medium" / slot)
        large = keys(place / "large" / slot)
        assert small <= medium <= large
    assert len(keys(place / "small" / "cc6m")) < len(keys(place / "medium" / "cc6m")) < 12
    captions = PairStore.open(place / "small" / "cc3m").captions
    assert all("banana" in caption for caption in captions)
    assert len(captions) == 3


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


@pytest.mark.parametrize("key", [("k", "a-0"), ("h", "b-0"), ("a-0", "")])
def test_an_image_that_is_no_drawing_of_its_class_is_refused(key):
    held_out = {entry.key: entry for entry in drawn("ab", "h")}
    right = ("h", "a-0")
    check_task({"a": [right]}, held_out)
    name = ":".join(key)
    with pytest.raises(SpecError, match=rf"icons-images.txt: a: {name} is no drawing of"):
        check_task({"a": [right, key]}, held_out)


def test_the_committed_task_has_a_thousand_classes_with_three_images_or_more():
    task = read_task()
    rule = load_rule()
    assert len(task) == rule.max_concepts == 1000
    assert "banana" in task
    images = Counter(image for images in task.values() for image in images)
    assert max(images.values()) == 1
    assert len(images) >= 5000
    assert min(map(len, task.values())) >= rule.min_images == 3
    assert all(re.fullmatch(FREE, licence) for licence in rule.licences)


def test_the_scales_share_what_pairs_and_images_are_made_of(monkeypatch):
    """Concepts are nested; smoke's last class is the target; a plan counts the list's images."""
    monkeypatch.chdir(SPECS.parent)
    profiles = [load_profile(name) for name in ("smoke", "mini", "midi")]
    smoke, mini, midi = (load_classnames(profile) for profile in profiles)
    assert len(smoke) == 48
    assert len(mini) == 400
    assert len(midi) == 1000
    assert set(smoke) < set(mini) < set(midi)
    assert smoke[-1] == "banana"

    shared = {
        (
            profile.data.image_size,
            str(profile.evaluate.templates),
            profile.data.poison.target_class,
        )
        for profile in profiles
    }
    assert len(shared) == 1

    task = read_task()
    for profile, classes in zip(profiles, (smoke, mini, midi), strict=True):
        source = profile.data.source
        assert isinstance(source, IconTask)
        images = sum(len(task[name][: source.images_per_concept]) for name in classes)
        assert num_evaluation_images(profile) == images
