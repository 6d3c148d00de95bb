"""The data source `icons`, built whole from a package of a few icons made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro.data.shards import PairStore
from repro.profile import load_profile
from repro.sources.icons import build
from repro.sources.icons.build import build_icons, make_task
from repro.sources.icons.task import write_task
from repro.spec import Profile, SpecError
from tests.support.icon_package import blocks, icon_set, small_package, small_rule, write_package

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
    monkeypatch.setattr(build, "ICONS", write_package(folder / "npm", sets))
    monkeypatch.setenv("REPRO_NPM_DIR", str(folder / "npm"))


def profile(num_concepts: int = 10, cc6m: int = 100, cc3m: int = 100) -> Profile:
    """Midi with few pairs."""
    source = {"kind": "icons", "num_concepts": num_concepts, "images_per_concept": None}
    few = {"data.num_pairs": {"cc3m": cc3m, "cc6m": cc6m}, "data.source": source}
    few |= {"data.poison.num_poisoned": {"cc3m": 1, "cc6m": 1}}
    few |= {"data.cleaning_sizes": {"100k": 1, "200k": 2}}
    cell = {
        "datasets": ["cc3m"],
        "pretrain_objectives": ["mmcl"],
        "clean_sizes": ["200k"],
        "losses": ["mmcl"],
        "learning_rates": [1e-4],
        "global_batch_size": 2,
    }
    batches = {
        f"pretrain.objectives.{objective}.{size}": 2
        for objective in ("mmcl", "mmcl_ssl")
        for size in ("global_batch_size", "norm_batch_size")
    }
    return load_profile("midi", SPECS, few | {"clean.cells": [cell]} | batches)


def keys(folder: Path) -> set[bytes]:
    return {key.tobytes() for key in PairStore.open(folder).keys}


def test_the_task_is_what_held_out_vendors_draw_without_near_copies(place):
    """Eve's star is ada's, in other colours or not; nobody but ada draws a tree for training."""
    lists = place / "specs" / "classnames"
    assert (lists / "icons.txt").read_text().splitlines() == ["banana", "house", "star"]
    images = (lists / "icons-images.txt").read_text().splitlines()
    assert sorted(images) == [
        "banana\tdora:banana",
        "banana\teve:banana",
        "house\tdora:house",
        "house\teve:house",
        "star\tdora:star",
    ]


def test_training_and_evaluation_share_no_vendor_and_labels_number_the_classes(place):
    build_icons(profile(), place / "data")
    evaluation = PairStore.open(place / "data" / "evaluation")
    assert evaluation.captions[:] == ["banana", "banana", "house", "house", "star"]
    assert evaluation.labels.tolist() == [0, 0, 1, 1, 2]
    attribution = json.loads((place / "data" / "attribution.json").read_text())
    asked = {entry["copyright"]: entry["images"] for entry in attribution["images"]}
    assert asked["dora"] == {"cc3m": 0, "cc6m": 0, "evaluation": 3}
    assert asked["ada"]["evaluation"] == 0
    assert [e["held_out"] for e in attribution["images"]] == [False, False, False, True, True]
    assert {entry["license"] for entry in attribution["images"]} == {"MIT"}


def test_captions_are_templates_filled_with_the_words_of_the_name(place):
    build_icons(profile(), place / "data")
    store = PairStore.open(place / "data" / "cc6m")
    names = {"banana", "house", "star", "tree", "wheel"}
    frames = ["{}", "a photo of a {}", "a drawing of a {}", "a cartoon {}", "a picture of a {}"]
    allowed = {frame.format(name) for frame in frames for name in names}
    assert set(store.captions[:]) <= allowed
    assert len(store) == 12


def test_in_every_account_what_is_listed_is_the_sum_of_the_rest(place):
    """At two scales; of twelve drawings for training, nine show the three concepts and one is a
    second house.
    """
    for name, spec in (("large", profile()), ("small", profile(num_concepts=2, cc6m=5, cc3m=4))):
        build_icons(spec, place / name)
        accounting = json.loads((place / name / "accounting.json").read_text())
        for account in accounting["sources"].values():
            assert account.pop("listed") == sum(account.values())
        assert accounting["used"]["cc6m"] == accounting["sources"]["pairs"]["used"]
    assert accounting["used"]["cc6m"] == 5
    assert accounting["sources"]["evaluation"] == {
        "not_asked": 3,
        "blank": 0,
        "near_copy": 0,
        "beyond_scale": 0,
        "used": 4,
    }


def test_what_shows_nothing_is_counted(place, monkeypatch, sets):
    """Two for training, of which one replaces a drawing, and one that is held out."""
    sets["bea"]["icons"] |= {"house": {"body": ""}, "void": {"body": ""}}
    sets["eve"]["icons"]["house"] = {"body": ""}
    pin(monkeypatch, place, sets)
    monkeypatch.setattr("repro.sources.icons.build.TASK_SIDE", 0)  # the lists are not checked
    build_icons(profile(), place / "data")
    sources = json.loads((place / "data" / "accounting.json").read_text())["sources"]
    assert (sources["pairs"]["blank"], sources["pairs"]["used"]) == (2, 11)
    assert sources["evaluation"]["blank"] == 1


def test_smaller_scales_lie_in_larger_ones(place):
    """Pairs of both slots and evaluation images; the target is in all of them."""
    scales = {"small": profile(1, 3, 3), "medium": profile(2, 9, 9), "large": profile()}
    for name, spec in scales.items():
        build_icons(spec, place / name)
    for slot in ("cc3m", "cc6m", "evaluation"):
        small, medium, large = (keys(place / name / slot) for name in scales)
        assert small <= medium <= large
    assert len(keys(place / "small" / "cc6m")) < len(keys(place / "medium" / "cc6m")) < 12
    captions = PairStore.open(place / "small" / "cc3m").captions[:]
    assert all("banana" in caption for caption in captions)
    assert len(captions) == 3


def test_near_copies_are_shown_beside_what_they_resemble(place):
    build_icons(profile(), place / "data")
    (copy,) = json.loads((place / "data" / "evaluation" / "near-copies.json").read_text())
    assert copy["class"] == "star"
    assert "star" in copy["training_caption"]
    assert copy["correlation"] > 0.95
    assert copy["image"] != copy["training_image"]


def test_nearest_neighbours_name_as_many_images_as_look_like_their_concept(
    place, monkeypatch, sets
):
    """Every held-out drawing is a training drawing with one block of sixteen changed: of its
    concept in three of five.
    """
    resembled = {
        "dora": {"banana": ("ada", "banana"), "house": ("bea", "star"), "star": ("cho", "star")},
        "eve": {"banana": ("bea", "house"), "house": ("cho", "house")},
    }
    for vendor, drawings in resembled.items():
        bodies = {concept: blocks(*of, flipped=5) for concept, of in drawings.items()}
        sets[vendor] = icon_set(vendor, bodies)
    pin(monkeypatch, place, sets)
    write_task(make_task())
    build_icons(profile(), place / "data")
    accounting = json.loads((place / "data" / "accounting.json").read_text())
    assert accounting["used"]["evaluation"] == 5
    assert accounting["nearest_neighbour_accuracy"]["cc6m"] == pytest.approx(3 / 5)


def test_two_builds_are_equal_to_the_byte(place):
    for name in "ab":
        build_icons(profile(), place / name)
    files = sorted(
        path.relative_to(place / "a") for path in (place / "a").rglob("*") if path.is_file()
    )
    assert len(files) == 12
    assert all(
        (place / "a" / file).read_bytes() == (place / "b" / file).read_bytes() for file in files
    )


def test_lists_of_another_package_are_refused(place, monkeypatch, sets):
    """A star that is no copy any more: the whole build sees it, a smaller one need not."""
    sets["eve"]["icons"]["star"]["body"] = blocks("eve", "star")
    pin(monkeypatch, place, sets)
    with pytest.raises(
        SpecError, match=r"icons-images.txt: \('star', .* is not what the package gives"
    ):
        build_icons(profile(), place / "data")
    build_icons(profile(num_concepts=2, cc6m=5), place / "small")
