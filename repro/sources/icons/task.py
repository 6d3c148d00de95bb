"""The zero-shot task: concepts that many vendors draw, images by vendors outside of training.

The task is in the repository (specs/classnames/icons.txt and icons-images.txt), so that label 7
means the same for everybody and the scales share their images. The rule makes it of the package:
`python -m repro.sources.icons`. Each build checks the part of the lists that it can see; the scale
with all pairs checks them whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.profile import SPECS, classnames_file
from repro.sources.icons.survey import IconEntry, IconRule, Key, Survey
from repro.spec import SpecError

REMEDY = "to write the lists again: python -m repro.sources.icons"
Candidates = Mapping[str, Sequence[IconEntry]]
"""Held-out drawings of each concept, in the order of their use."""


@dataclass(frozen=True)
class ZeroShotTask:
    """Class names in label order, and the images of each, as set and name of the icon."""

    names: tuple[str, ...]
    images: Mapping[str, tuple[Key, ...]]


def find_candidates(survey: Survey, rule: IconRule) -> Candidates:
    """Concepts of enough training vendors, without brands, with the held-out drawings of each."""
    vendors = survey.training_vendors()
    concepts = {caption for caption, by in vendors.items() if len(by) >= rule.min_vendors}
    concepts -= survey.brands

    candidates: defaultdict[str, list[IconEntry]] = defaultdict(list)
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for entry in sorted(survey.held_out, key=lambda entry: entry.rank("evaluation")):
        if entry.caption in concepts:
            # The many styles of one vendor must not make up a class.
            counts[entry.caption, entry.vendor] += 1
            if counts[entry.caption, entry.vendor] <= rule.images_per_vendor:
                candidates[entry.caption].append(entry)
    return candidates


def settle(
    candidates: Candidates, survey: Survey, rule: IconRule, useless: Collection[Key]
) -> ZeroShotTask:
    """The task by the rule; `useless` candidates are near-copies or cannot be drawn."""
    vendors = survey.training_vendors()
    images = {}
    for concept, entries in candidates.items():
        kept = tuple(entry.key for entry in entries if entry.key not in useless)
        if len(kept) >= rule.min_images:
            images[concept] = kept

    # Most drawn first, ties by name: a smaller scale takes the first ones.
    names = sorted(images, key=lambda concept: (-len(vendors[concept]), concept))
    names = names[: rule.max_concepts]
    return ZeroShotTask(tuple(names), {name: images[name] for name in names})


def images_file(specs: Path = SPECS) -> Path:
    """Path of the list of evaluation images: concept, tab, set:name."""
    return specs / "classnames" / "icons-images.txt"


def write_task(task: ZeroShotTask, specs: Path = SPECS) -> None:
    """Write both lists."""
    names = "".join(f"{name}\n" for name in task.names)
    classnames_file("icons", specs).write_text(names, encoding="utf-8")
    lines = [
        f"{name}\t{icon_set}:{icon}\n"
        for name in task.names
        for icon_set, icon in task.images[name]
    ]
    images_file(specs).write_text("".join(lines), encoding="utf-8")


def read_task(specs: Path = SPECS) -> ZeroShotTask:
    """Read both lists; SpecError for a line of another form, or of an unknown class."""
    names = tuple(classnames_file("icons", specs).read_text(encoding="utf-8").splitlines())
    path = images_file(specs)
    images: dict[str, list[Key]] = {name: [] for name in names}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, icon = line.partition("\t")
        icon_set, colon, icon_name = icon.partition(":")
        if not (tab and colon and name in images):
            raise SpecError(
                f"{path}: line {number}: {line!r} (allowed: a class of icons.txt, a tab, set:name)"
            )
        images[name].append((icon_set, icon_name))
    return ZeroShotTask(names, {name: tuple(icons) for name, icons in images.items()})


def check_task(task: ZeroShotTask, candidates: Candidates) -> None:
    """SpecError unless every image of the task is a candidate for its class."""
    for name in task.names:
        possible = {entry.key for entry in candidates.get(name, ())}
        for icon_set, icon in task.images[name]:
            if (icon_set, icon) not in possible:
                raise SpecError(
                    f"{images_file()}: {name}: {icon_set}:{icon} is no drawing of it by a held-out"
                    f" vendor (allowed: {len(possible)} drawings in the package); {REMEDY}"
                )


def check_whole(task: ZeroShotTask, settled: ZeroShotTask) -> None:
    """SpecError at the first difference between the lists and the task by the rule."""
    for label, (committed, built) in enumerate(zip(task.names, settled.names, strict=False)):
        if committed != built:
            raise SpecError(
                f"{classnames_file('icons')}: line {label + 1}: {committed!r} is not what the"
                f" package gives ({built!r}); {REMEDY}"
            )
        if task.images[committed] != settled.images[built]:
            raise SpecError(
                f"{images_file()}: images of {committed!r} are not those that the package gives;"
                f" {REMEDY}"
            )
    if len(task.names) != len(settled.names):
        raise SpecError(
            f"{classnames_file('icons')}: {len(task.names)} names"
            f" (the package gives {len(settled.names)}); {REMEDY}"
        )
