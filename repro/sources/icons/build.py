"""The data source `icons`: pairs of icons and captions, and a task by vendors outside of training.

All choices follow from set and name of an icon by keyed hashes, and pairs are written as they are
drawn: the bytes are the same on every machine, and the memory stays small.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from repro.data.shards import PairStore, ShardWriter, write_json, write_store
from repro.data.templates import templates_of
from repro.profile import load_classnames
from repro.sources.icons import accounts
from repro.sources.icons.copies import find_nearest
from repro.sources.icons.drawing import DrawingJob, DrawnIcon, Refused, draw_icons
from repro.sources.icons.package import ICONS, read_sets
from repro.sources.icons.pairs import Drawings, PairWriter
from repro.sources.icons.survey import (
    IconEntry,
    IconRule,
    Key,
    Survey,
    choose_pairs,
    load_rule,
    take_survey,
)
from repro.sources.icons.task import (
    Candidates,
    ZeroShotTask,
    check_task,
    check_whole,
    find_candidates,
    read_task,
    settle,
)
from repro.sources.packages import NPM_DIR, obtain
from repro.spec import IconSource, Profile

TASK_SIDE = 32
"""Image size for the lists of the task, in pixels; another size may give other near-copies."""
SHOWN_COPIES = 12
"""Near-copies for the report."""


class SurveyedPackage(NamedTuple):
    """The package under the rule."""

    tarball: Path
    rule: IconRule
    survey: Survey
    candidates: Candidates


class Copy(NamedTuple):
    """Training drawing that a held-out one resembles: correlation, and row in the store cc6m."""

    similarity: float
    row: int


@dataclass(frozen=True)
class HeldOut:
    """Held-out drawings by set and name, and their fates."""

    entries: Mapping[Key, IconEntry]
    drawn: Mapping[Key, DrawnIcon]
    refused: Mapping[Key, str]
    copies: Mapping[Key, Copy]

    @property
    def useless(self) -> set[Key]:
        """Drawings that cannot be evaluation images: refused, or near-copies."""
        return {*self.refused, *self.copies}


def build_icons(profile: Profile, out: Path, npm_dir: Path = NPM_DIR) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises SpecError if the lists of the task are not those of the package, and PackageError if the
    package is unavailable.
    """
    source = profile.data.source
    assert isinstance(source, IconSource)
    package, task = read_package(npm_dir), read_task()
    check_task(task, package.candidates)
    names = load_classnames(profile)
    training = package.survey.training
    chosen = choose_pairs(training, names, profile.data.poison.target_class, profile.data.num_pairs)

    # With all pairs at hand this build can check the lists whole.
    whole = len(chosen["cc6m"]) == len(training) and profile.data.image_size == TASK_SIDE
    concepts = package.candidates if whole else names
    templates = templates_of(profile.evaluate)
    pairs = {name: PairWriter(out / name, keys, templates) for name, keys in chosen.items()}
    held_out, refused = draw_package(
        package, concepts, [pairs["cc3m"], pairs["cc6m"]], profile.data.image_size
    )
    for writer in pairs.values():
        writer.close()
    if whole:
        settled = settle(package.candidates, package.survey, package.rule, held_out.useless)
        check_whole(task, settled)

    # The images of the task that can be used, and of these as many as the scale takes.
    images: list[tuple[str, IconEntry]] = []
    num_usable = 0
    for name in names:
        usable = [key for key in task.images[name] if key not in held_out.useless]
        num_usable += len(usable)
        taken = usable[: source.images_per_concept]
        images += [(name, held_out.entries[key]) for key in taken]
    _write_evaluation(out / "evaluation", names, images, held_out)
    _write_copies(out / "evaluation" / "near-copies.json", held_out, out / "cc6m")

    survey, rule = package.survey, package.rule
    sources = {
        "package": accounts.package_account(survey),
        "pairs": accounts.pair_account(survey, pairs["cc6m"], refused),
        "evaluation": _evaluation_account(survey, names, held_out, num_usable, len(images)),
    }
    accounting = accounts.accounting(sources, survey, rule, pairs, images)
    accounting["nearest_neighbour_accuracy"] = {
        name: _nearest_neighbour_accuracy(writer, images, held_out)
        for name, writer in pairs.items()
    }
    write_json(out / "accounting.json", accounting)
    write_json(out / "attribution.json", accounts.attribution(survey, rule, pairs, images))


def make_task(npm_dir: Path = NPM_DIR) -> ZeroShotTask:
    """The task that the rule makes of the package; draws all training drawings for it."""
    package = read_package(npm_dir)
    training = Drawings({entry.key for entry in package.survey.training})
    held_out, _ = draw_package(package, package.candidates, [training], TASK_SIDE)
    return settle(package.candidates, package.survey, package.rule, held_out.useless)


def read_package(npm_dir: Path) -> SurveyedPackage:
    """Obtain and survey the package."""
    rule = load_rule()
    tarball = obtain(ICONS, npm_dir)
    survey = take_survey(tarball, rule)
    return SurveyedPackage(tarball, rule, survey, find_candidates(survey, rule))


def draw_package(
    package: SurveyedPackage, concepts: Collection[str], training: Sequence[Drawings], size: int
) -> tuple[HeldOut, Counter[str]]:
    """Draw the members of `training`, of which the last holds the others, and the candidates.

    Returns the candidates for the concepts, and the number of refused training drawings by reason.
    """
    largest = training[-1]
    candidates = {e.key: e for name in concepts for e in package.candidates.get(name, ())}
    entries = {e.key: e for e in package.survey.training if e.key in largest.members}
    count = len(entries) + len(candidates)
    drawn: dict[Key, DrawnIcon] = {}
    refused: dict[Key, str] = {}
    started = time.monotonic()

    # In the package's order, so that the stores are written in this order too.
    jobs = _jobs(package.tarball, entries.keys() | candidates.keys())
    for job, result in draw_icons(jobs, count, size):
        key = (job.set, job.name)
        if isinstance(result, Refused):
            refused[key] = result.reason
        elif key in candidates:
            drawn[key] = result
        else:
            for drawings in training:
                if key in drawings.members:
                    drawings.add(entries[key], result)
    seconds = time.monotonic() - started
    Console(stderr=True).print(f"drew {count} icons in {seconds:.0f} s")

    copies = {}
    if drawn and largest.entries:
        shapes = np.stack([drawing.shape for drawing in drawn.values()])
        nearest = find_nearest(shapes, largest.shapes())
        for key, value, row in zip(drawn, *(column.tolist() for column in nearest), strict=True):
            if value >= package.rule.near_copy:
                copies[key] = Copy(value, row)
    held_out = {key: reason for key, reason in refused.items() if key in candidates}
    pairs = Counter(reason for key, reason in refused.items() if key not in candidates)
    return HeldOut(candidates, drawn, held_out, copies), pairs


def _jobs(tarball: Path, keys: Collection[Key]) -> Iterator[DrawingJob]:
    for icon_set in read_sets(tarball):
        credit = icon_set.credit
        for icon in icon_set.icons:
            if (credit.set, icon.name) in keys:
                yield DrawingJob(credit.set, icon.name, icon.body, icon.box, credit.palette)


def _evaluation_account(
    survey: Survey, names: Collection[str], held_out: HeldOut, usable: int, used: int
) -> dict[str, int]:
    """Number of held-out drawings by fate."""
    # At full scale candidates of more concepts were drawn than the task has.
    concepts = set(names)
    keys = [key for key, entry in held_out.entries.items() if entry.caption in concepts]
    refused = Counter(held_out.refused[key] for key in keys if key in held_out.refused)
    return {
        "listed": len(survey.held_out),
        "not_asked": len(survey.held_out) - len(keys),
        **dict(sorted(refused.items())),
        "near_copy": len(keys) - refused.total() - usable,
        "beyond_scale": usable - used,
        "used": used,
    }


def _write_evaluation(
    folder: Path, names: Sequence[str], images: accounts.Images, held_out: HeldOut
) -> None:
    folder.mkdir(parents=True)
    label_of = {name: label for label, name in enumerate(names)}
    writer = ShardWriter(folder)
    for name, entry in images:
        writer.add(held_out.drawn[entry.key].png, "png", name, label_of[name])
    write_store(folder, *writer.close())


def _write_copies(path: Path, held_out: HeldOut, pairs: Path) -> None:
    """The first near-copies in a keyed order, each beside the training drawing it resembles."""
    store = PairStore.open(pairs)
    keys = sorted(held_out.copies, key=lambda key: held_out.entries[key].rank("shown"))
    content = []
    for key in keys[:SHOWN_COPIES]:
        copy = held_out.copies[key]
        content.append(
            {
                "class": held_out.entries[key].caption,
                "image": base64.b64encode(held_out.drawn[key].png).decode(),
                "training_caption": store.captions[copy.row],
                "training_image": base64.b64encode(store.image_bytes(copy.row)).decode(),
                "correlation": round(copy.similarity, 4),
            }
        )
    write_json(path, content)


def _nearest_neighbour_accuracy(
    pairs: Drawings, images: accounts.Images, held_out: HeldOut
) -> float:
    """Share of evaluation images whose nearest training drawing bears the name of their class.

    The accuracy without learning, a reference for zero-shot accuracy.
    """
    shapes = np.stack([held_out.drawn[entry.key].shape for _, entry in images])
    rows = find_nearest(shapes, pairs.shapes()).position
    right = [
        pairs.entries[row].caption == name for row, (name, _) in zip(rows, images, strict=True)
    ]
    return float(np.mean(right))
