"""The zero-shot task: concepts that many vendors draw, images by vendors outside of training.

The task is in the repository (specs/classnames/icons.txt and icons-images.txt), so that label 7
means the same for everybody and the scales share their images. The rule makes it of the package:
`python -m repro.sources.icons`. Each build checks the part of the lists that it can see; the scale
with all pairs checks them whole.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path

from repro.profile import SPECS, classnames_file
from repro.sources.icons.survey import Key, Survey
from repro.spec import SpecError

REMEDY = "to write the lists again: python -m repro.sources.icons"
Task = dict[str, list[Key]]
"""Images of each class, as set and name of the icon; classes in label order."""


def settle(survey: Survey, usable: Collection[Key]) -> Task:
    """The task by the rule; `usable` candidates show something and are no near-copies."""
    images = {
        concept: [entry.key for entry in entries if entry.key in usable]
        for concept, entries in survey.candidates.items()
    }
    enough = [name for name in images if len(images[name]) >= survey.rule.min_images]

    # Most drawn first, ties by name: a smaller scale takes the first ones.
    names = sorted(enough, key=lambda concept: (-len(survey.vendors[concept]), concept))
    return {name: images[name] for name in names[: survey.rule.max_concepts]}


def write_task(task: Task, specs: Path = SPECS) -> None:
    """Write both lists: a class a line; and class, tab, set:name an image."""
    classnames_file("icons", specs).write_text("".join(f"{name}\n" for name in task), "utf-8")
    lines = [
        f"{name}\t{icon_set}:{icon}\n" for name, images in task.items() for icon_set, icon in images
    ]
    classnames_file("icons-images", specs).write_text("".join(lines), "utf-8")


def read_task(specs: Path = SPECS) -> Task:
    """Read both lists; SpecError for a line of another form, or of an unknown class."""
    names = classnames_file("icons", specs).read_text(encoding="utf-8").splitlines()
    task: Task = {name: [] for name in names}
    path = classnames_file("icons-images", specs)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, icon = line.partition("\t")
        icon_set, colon, icon_name = icon.partition(":")
        if not (tab and colon and name in task):
            raise SpecError(
                f"{path}: line {number}: {line!r} (allowed: a class of icons.txt, a tab, set:name)"
            )
        task[name].append((icon_set, icon_name))
    return task


def check_task(task: Task, survey: Survey) -> None:
    """SpecError unless every image of the task is a candidate for its class."""
    for name, images in task.items():
        possible = {entry.key for entry in survey.candidates.get(name, ())}
        for key in images:
            if key not in possible:
                raise SpecError(
                    f"{classnames_file('icons-images')}: {name}: {':'.join(key)} is no drawing of"
                    f" it by a held-out vendor (allowed: {len(possible)} drawings in the package);"
                    f" {REMEDY}"
                )


def check_whole(task: Task, settled: Task) -> None:
    """SpecError at the first difference between the lists and the task by the rule."""
    for committed, built in zip_longest(task.items(), settled.items()):
        if committed != built:
            raise SpecError(
                f"{classnames_file('icons-images')}: {committed} is not what the package gives "
                f"({built}); {REMEDY}"
            )
