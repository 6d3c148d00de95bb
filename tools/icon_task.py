"""Write the lists of the zero-shot task, specs/classnames/icons.txt and icons-images.txt, by the
rule in icons.yaml of the npm package of icons:

    python -m tools.icon_task

Needed after a change of the rule or the package. It draws all icons for training.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from repro.profile import SPECS, classnames_file
from repro.sources.icons.drawing import draw_all, find_nearest, read_icons
from repro.sources.icons.package import ICONS, IconSet, read_sets
from repro.sources.icons.survey import (
    IconEntry,
    IconRule,
    Task,
    captioned,
    first_of_each,
    load_rule,
    take_survey,
)
from repro.sources.packages import obtain

SIDE = 32
"""Image size, in pixels; another size may give other near-copies."""
BRAND_CATEGORY = re.compile(r"brand|logo", re.IGNORECASE)
Vendors = Mapping[str, Collection[str]]
"""Caption to vendors."""


def logos_of(icon_set: IconSet) -> set[str]:
    """Icons that a set files under brands or logos."""
    if icon_set.entry.get("category") == "Logos":
        return set(icon_set.content["icons"])
    logos = {icon for icon in icon_set.content["icons"] if {"brand", "logo"} & {*icon.split("-")}}
    for category, icons in icon_set.content.get("categories", {}).items():
        if BRAND_CATEGORY.search(category):
            logos.update(icons)
    return logos


def brands_of(tarball: Path, rule: IconRule) -> set[str]:
    """Captions that too many of their vendors file under logos: brands, and no concepts."""
    # Held-out vendors count too: a brand is a brand whatever the split.
    drawn: defaultdict[str, set[str]] = defaultdict(set)
    filed: defaultdict[str, set[str]] = defaultdict(set)
    for icon_set in read_sets(tarball):
        logos = logos_of(icon_set)
        for name, caption in captioned(icon_set, rule):
            drawn[caption].add(icon_set.vendor)
            if name in logos:
                filed[caption].add(icon_set.vendor)
    share = rule.max_brand_share
    return {name for name, vendors in filed.items() if len(vendors) > share * len(drawn[name])}


def vendors_of(training: Sequence[IconEntry]) -> Vendors:
    """Vendors that draw each caption for training."""
    vendors: defaultdict[str, set[str]] = defaultdict(set)
    for entry in training:
        vendors[entry.caption].add(entry.vendor)
    return vendors


def candidates_of(
    held_out: Sequence[IconEntry], vendors: Vendors, brands: Collection[str], rule: IconRule
) -> dict[str, list[IconEntry]]:
    """Held-out drawings of each concept in the order of their use. A concept is drawn by enough
    training vendors, and no brand.
    """
    # The many styles of one vendor must not make up a class.
    candidates: defaultdict[str, list[IconEntry]] = defaultdict(list)
    for entry in first_of_each(held_out, rule.images_per_vendor, "evaluation"):
        enough = len(vendors.get(entry.caption, ())) >= rule.min_vendors
        if enough and entry.caption not in brands:
            candidates[entry.caption].append(entry)
    return candidates


def settle(images: Task, vendors: Vendors, rule: IconRule) -> Task:
    """The classes with enough images, most drawn first, ties by name: a smaller scale takes the
    first ones.
    """
    enough = [name for name in images if len(images[name]) >= rule.min_images]
    names = sorted(enough, key=lambda concept: (-len(vendors[concept]), concept))
    return {name: images[name] for name in names[: rule.max_concepts]}


def make_task() -> Task:
    """The task that the rule makes of the package.

    A candidate is no image of the task if it is blank, or if its shape correlates by `near_copy` or
    more with a drawing for training.
    """
    tarball, rule = obtain(ICONS), load_rule()
    survey = take_survey(tarball, rule)
    vendors = vendors_of(survey.training)
    candidates = candidates_of(survey.held_out, vendors, brands_of(tarball, rule), rule)
    keys = [entry.key for entries in candidates.values() for entry in entries]
    training = [entry.key for entry in survey.training]
    drawn = draw_all(read_icons(tarball, {*keys, *training}), SIDE)

    shown = [key for key in keys if key in drawn]
    shapes = (
        np.stack([drawn[key].shape for key in part if key in drawn]) for part in (shown, training)
    )
    nearest, _ = find_nearest(*shapes)
    usable = {
        key for key, value in zip(shown, nearest.tolist(), strict=True) if value < rule.near_copy
    }
    images = {
        name: [entry.key for entry in entries if entry.key in usable]
        for name, entries in candidates.items()
    }
    return settle(images, vendors, rule)


def write_task(task: Task, specs: Path = SPECS) -> None:
    """Write both lists: a class a line; and class, tab, set:name an image."""
    classnames_file("icons", specs).write_text("".join(f"{name}\n" for name in task), "utf-8")
    lines = [
        f"{name}\t{icon_set}:{icon}\n" for name, images in task.items() for icon_set, icon in images
    ]
    classnames_file("icons-images", specs).write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    made = make_task()
    write_task(made)
    print(f"{len(made)} concepts, {sum(map(len, made.values()))} images")
