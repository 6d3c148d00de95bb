"""The data source `icons`: pairs of icons and captions, and a task by vendors never trained on.

Everything follows from set and name of an icon by keyed hashes, and pairs are written as they are
drawn: the bytes are the same on every machine, and memory stays small.
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
from repro.sources.icons.rule import IconRule, load_rule
from repro.sources.icons.scale import choose_pairs
from repro.sources.icons.slots import ShapeList, SlotWriter
from repro.sources.icons.survey import IconEntry, Key, Survey, take_survey
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
"""Pixels at which the lists of the task were made; at another size near-copies may be others."""
SHOWN_COPIES = 12
"""Near-copies that the report shows."""


class SurveyedPackage(NamedTuple):
    """The package as the rule sees it."""

    tarball: Path
    rule: IconRule
    survey: Survey
    candidates: Candidates


class Copy(NamedTuple):
    """A training drawing that a held-out one resembles: correlation, and row in the larger slot."""

    similarity: float
    row: int


@dataclass(frozen=True)
class HeldOut:
    """Held-out drawings by set and name: those that were asked for, and what came of them."""

    asked: Mapping[Key, IconEntry]
    drawn: Mapping[Key, DrawnIcon]
    refused: Mapping[Key, str]
    copies: Mapping[Key, Copy]

    @property
    def useless(self) -> set[Key]:
        """Drawings that cannot be evaluation images: refused, or near-copies."""
        return {*self.refused, *self.copies}


def build_icons(profile: Profile, out: Path, npm_dir: Path = NPM_DIR) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, and with who drew them and the account.

    Raises SpecError where the lists of the task are not what the package gives, and PackageError
    where it cannot be had.
    """
    source = profile.data.source
    assert isinstance(source, IconSource)
    package, task = read_package(npm_dir), read_task()
    check_task(task, package.candidates)
    names = load_classnames(profile)
    chosen = choose_pairs(
        package.survey.training, names, profile.data.poison.target_class, profile.data.num_pairs
    )

    # With every pair there, this build can see all that the lists were made of.
    all_pairs = len(chosen["cc6m"]) == len(package.survey.training)
    whole = all_pairs and profile.data.image_size == TASK_SIDE
    concepts = package.candidates if whole else names

    templates = templates_of(profile.evaluate)
    slots = {slot: SlotWriter(out / slot, keys, templates) for slot, keys in chosen.items()}
    # cc3m and cc6m share drawings: each is drawn once and goes to every slot that holds it.
    held_out, refused = draw_package(
        package, concepts, [slots["cc3m"], slots["cc6m"]], profile.data.image_size
    )
    for slot in slots.values():
        slot.close()
    if whole:
        settled = settle(package.candidates, package.survey, package.rule, held_out.useless)
        check_whole(task, settled)

    kept, images = _images(task, names, held_out, source.images_per_concept)
    _write_evaluation(out / "evaluation", names, images, held_out)
    _write_copies(out, held_out, slots["cc6m"])

    # The account: every icon of the package, of the pairs and of the held-out drawings.
    survey = package.survey
    sources = {
        "package": accounts.of_package(survey),
        "pairs": accounts.of_pairs(survey, slots["cc6m"], refused),
        "evaluation": _account_evaluation(survey, names, held_out, len(kept), len(images)),
    }
    baselines = {
        slot: _nearest_neighbour_accuracy(writer, images, held_out)
        for slot, writer in slots.items()
    }
    accounting = accounts.accounting(sources, survey, package.rule, slots, images)
    write_json(out / "accounting.json", accounting | {"nearest_neighbour_accuracy": baselines})
    attribution = accounts.attribution(survey, package.rule, slots, images)
    write_json(out / "attribution.json", attribution)


def make_task(npm_dir: Path = NPM_DIR) -> ZeroShotTask:
    """The task that the rule makes of the package; all that it depends on is drawn for it."""
    package = read_package(npm_dir)
    known = ShapeList({entry.key for entry in package.survey.training})
    held_out, _ = draw_package(package, package.candidates, [known], TASK_SIDE)
    return settle(package.candidates, package.survey, package.rule, held_out.useless)


def read_package(npm_dir: Path) -> SurveyedPackage:
    """Obtain and survey the package."""
    rule = load_rule()
    tarball = obtain(ICONS, npm_dir)
    survey = take_survey(tarball, rule)
    return SurveyedPackage(tarball, rule, survey, find_candidates(survey, rule))


def draw_package(
    package: SurveyedPackage, concepts: Collection[str], slots: Sequence[ShapeList], size: int
) -> tuple[HeldOut, Counter[str]]:
    """Draw what the slots hold and the candidates for the concepts.

    Returns the candidates, and how many drawings of the slots were refused, by reason. Near-copies
    are those of drawings in the last slot, which holds the others.
    """
    # By key: those to ask about, and those to train on (the larger slot holds the smaller).
    asked = {entry.key: entry for name in concepts for entry in package.candidates.get(name, ())}
    wanted = {
        entry.key: entry for entry in package.survey.training if entry.key in slots[-1].members
    }
    drawn: dict[Key, DrawnIcon] = {}
    refused: dict[Key, str] = {}
    console, started = Console(stderr=True), time.monotonic()

    # One stream in the package's order, in which the pairs are written too.
    jobs = _jobs(package.tarball, wanted.keys() | asked.keys())
    for job, result in draw_icons(jobs, len(wanted) + len(asked), size):
        key = (job.set, job.name)
        if isinstance(result, Refused):
            refused[key] = result.reason
        elif key in asked:
            drawn[key] = result
        else:
            for slot in slots:
                if key in slot.members:
                    slot.add(wanted[key], result)
    seconds = time.monotonic() - started
    console.print(f"drew {len(wanted) + len(asked)} icons in {seconds:.0f} s")

    # Only now are all training drawings known to which a candidate could be a near-copy.
    copies = _find_copies(drawn, slots[-1], package.rule.near_copy)
    refused_held_out = {key: reason for key, reason in refused.items() if key in asked}
    refused_pairs = Counter(reason for key, reason in refused.items() if key not in asked)
    return HeldOut(asked, drawn, refused_held_out, copies), refused_pairs


def _jobs(tarball: Path, wanted: Collection[Key]) -> Iterator[DrawingJob]:
    for icon_set in read_sets(tarball):
        credit = icon_set.credit
        for icon in icon_set.icons:
            if (credit.set, icon.name) in wanted:
                yield DrawingJob(credit.set, icon.name, icon.body, icon.box, credit.palette)


def _find_copies(
    drawn: Mapping[Key, DrawnIcon], known: ShapeList, threshold: float
) -> dict[Key, Copy]:
    if not drawn or not known.entries:
        return {}
    shapes = np.stack([drawing.shape for drawing in drawn.values()])
    similarity, position = find_nearest(shapes, known.shapes())
    found = zip(drawn, similarity.tolist(), position.tolist(), strict=True)
    return {key: Copy(value, row) for key, value, row in found if value >= threshold}


def _images(
    task: ZeroShotTask, names: Sequence[str], held_out: HeldOut, limit: int | None
) -> tuple[set[Key], list[tuple[str, IconEntry]]]:
    """The images of the task that can be used, and those that this scale takes, in label order."""
    kept, images = set(), []
    for name in names:
        usable = [key for key in task.images[name] if key not in held_out.useless]
        kept.update(usable)
        images += [(name, held_out.asked[key]) for key in usable[:limit]]
    return kept, images


def _account_evaluation(
    survey: Survey, names: Collection[str], held_out: HeldOut, kept: int, used: int
) -> dict[str, int]:
    """The held-out drawings: those not asked for at this scale, and what became of the rest."""
    # At full scale candidates of more concepts were drawn than the task keeps.
    concepts = set(names)
    asked = [key for key, entry in held_out.asked.items() if entry.caption in concepts]
    refused = Counter(held_out.refused[key] for key in asked if key in held_out.refused)
    return {
        "listed": len(survey.held_out),
        "not_asked": len(survey.held_out) - len(asked),
        **dict(sorted(refused.items())),
        "near_copy": len(asked) - refused.total() - kept,
        "beyond_scale": kept - used,
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


def _write_copies(out: Path, held_out: HeldOut, slot: SlotWriter) -> None:
    """The first near-copies in a keyed order, each beside the training drawing it resembles."""
    store = PairStore.open(out / slot.folder.name)
    keys = sorted(held_out.copies, key=lambda key: held_out.asked[key].rank("shown"))
    shown = []
    for key in keys[:SHOWN_COPIES]:
        copy = held_out.copies[key]
        shown.append(
            {
                "class": held_out.asked[key].caption,
                "image": base64.b64encode(held_out.drawn[key].png).decode(),
                "training_caption": store.captions[copy.row],
                "training_image": base64.b64encode(store.image_bytes(copy.row)).decode(),
                "correlation": round(copy.similarity, 4),
            }
        )
    write_json(out / "evaluation" / "near-copies.json", shown)


def _nearest_neighbour_accuracy(
    slot: SlotWriter, images: accounts.Images, held_out: HeldOut
) -> float:
    """Share of evaluation images whose most correlated training drawing bears their class's name.

    What accuracy is worth without learning; a zero-shot accuracy is to be read beside it.
    """
    shapes = np.stack([held_out.drawn[entry.key].shape for _, entry in images])
    position = find_nearest(shapes, slot.shapes()).position
    right = [
        slot.entries[row].caption == name for row, (name, _) in zip(position, images, strict=True)
    ]
    return float(np.mean(right))
