"""The data source `icons`: pairs of icons and captions, and a task by vendors outside of training.

All choices follow from set and name of an icon by keyed hashes, and pairs are written in the
package's order: the bytes are the same on every machine.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import bytes_hash
from repro.data.index import pair_key
from repro.data.keyed import keyed_digest
from repro.data.shards import PairStore, ShardWriter, write_json, write_store
from repro.data.templates import templates_of
from repro.profile import load_classnames
from repro.sources.icons.drawing import DrawnIcon, draw_icons, find_nearest
from repro.sources.icons.package import ICONS, read_sets
from repro.sources.icons.survey import (
    IconEntry,
    Key,
    Survey,
    choose_pairs,
    load_rule,
    take_survey,
)
from repro.sources.icons.task import Task, check_task, check_whole, read_task, settle
from repro.sources.packages import NPM_DIR, WORDNET_CREDIT, obtain
from repro.spec import IconSource, Profile

TASK_SIDE = 32
"""Image size for the lists of the task, in pixels; another size may give other near-copies."""
SHOWN_COPIES = 12
"""Near-copies for the report."""

Drawings = Mapping[Key, DrawnIcon]
"""All icons that were drawn and show something, by set and name."""
Copies = Mapping[Key, tuple[float, int]]
"""Near-copies: correlation with the most similar training drawing, and its position."""


def build_icons(profile: Profile, out: Path, npm_dir: Path = NPM_DIR) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises SpecError if the lists of the task are not those of the package, and PackageError if the
    package is unavailable.
    """
    source, size = profile.data.source, profile.data.image_size
    assert isinstance(source, IconSource)
    survey, task = take_survey(obtain(ICONS, npm_dir), load_rule()), read_task()
    check_task(task, survey)
    names, target = load_classnames(profile), profile.data.poison.target_class
    chosen = choose_pairs(survey.training, names, target, profile.data.num_pairs)

    # With all pairs at hand this build can check the lists whole.
    whole = len(chosen["cc6m"]) == len(survey.training) and size == TASK_SIDE
    asked = {name: survey.candidates.get(name, []) for name in names}
    candidates = _by_key(survey.candidates if whole else asked)
    drawn = draw_package(survey, chosen["cc6m"] | candidates.keys(), size)

    templates = templates_of(profile.evaluate)
    pairs: dict[str, list[IconEntry]] = {}
    for dataset, keys in chosen.items():
        entries = [entry for entry in survey.training if entry.key in drawn and entry.key in keys]
        pairs[dataset] = _write_pairs(out / dataset, entries, drawn, templates)
    copies = near_copies(drawn, candidates, pairs["cc6m"], survey.rule.near_copy)
    usable = (candidates.keys() & drawn.keys()) - copies.keys()
    if whole:
        check_whole(task, settle(survey, usable))

    # The images of the task that can be used, and of these as many as the scale takes.
    possible = {name: [key for key in task[name] if key in usable] for name in names}
    images = [
        candidates[key] for keys in possible.values() for key in keys[: source.images_per_concept]
    ]
    _write_evaluation(out / "evaluation", names, images, drawn)
    shown = sorted(copies, key=lambda key: candidates[key].rank("shown"))[:SHOWN_COPIES]
    _write_copies(
        out / "evaluation", [candidates[key] for key in shown], copies, drawn, out / "cc6m"
    )

    asked_keys, num_possible = _by_key(asked).keys(), sum(map(len, possible.values()))
    stores = pairs | {"evaluation": images}
    accounting = {
        "sources": {
            "package": {"listed": survey.account.total(), **dict(sorted(survey.account.items()))},
            "pairs": {
                "listed": len(survey.training),
                "beyond_scale": len(survey.training) - len(chosen["cc6m"]),
                "blank": len(chosen["cc6m"] - drawn.keys()),
                "duplicate": len(chosen["cc6m"] & drawn.keys()) - len(pairs["cc6m"]),
                "used": len(pairs["cc6m"]),
            },
            "evaluation": {
                "listed": len(survey.held_out),
                "not_asked": len(survey.held_out) - len(asked_keys),
                "blank": len(asked_keys - drawn.keys()),
                "near_copy": len(asked_keys & drawn.keys()) - num_possible,
                "beyond_scale": num_possible - len(images),
                "used": len(images),
            },
        },
        "used": {name: len(entries) for name, entries in stores.items()},
        "nearest_neighbour_accuracy": {
            name: _nearest_neighbour_accuracy(entries, images, drawn)
            for name, entries in pairs.items()
        },
    }
    write_json(out / "accounting.json", accounting)
    write_json(out / "attribution.json", _attribution(survey, stores))


def make_task(npm_dir: Path = NPM_DIR) -> Task:
    """The task that the rule makes of the package; draws all training drawings for it."""
    survey = take_survey(obtain(ICONS, npm_dir), load_rule())
    candidates = _by_key(survey.candidates)
    keys = {entry.key for entry in survey.training} | candidates.keys()
    drawn = draw_package(survey, keys, TASK_SIDE)
    training = [entry for entry in survey.training if entry.key in drawn]
    copies = near_copies(drawn, candidates, training, survey.rule.near_copy)
    return settle(survey, drawn.keys() - copies.keys())


def _by_key(candidates: Mapping[str, Sequence[IconEntry]]) -> dict[Key, IconEntry]:
    return {entry.key: entry for entries in candidates.values() for entry in entries}


def draw_package(survey: Survey, keys: Collection[Key], size: int) -> dict[Key, DrawnIcon]:
    """Draw icons of the package; those that show something, in its order."""
    sets = read_sets(survey.tarball)
    icons = [icon for s in sets for icon in s.icons if (icon.set, icon.name) in keys]
    return draw_icons(icons, size)


def near_copies(
    drawn: Drawings, candidates: Collection[Key], training: Sequence[IconEntry], least: float
) -> dict[Key, tuple[float, int]]:
    """Candidates whose shape correlates by `least` or more with a training drawing."""
    keys = [key for key in drawn if key in candidates]
    if not keys or not training:
        return {}
    nearest = find_nearest(_shapes(drawn, keys), _shapes(drawn, [e.key for e in training]))
    found = zip(keys, *(column.tolist() for column in nearest), strict=True)
    return {key: (value, row) for key, value, row in found if value >= least}


def _shapes(drawn: Drawings, keys: Sequence[Key]) -> NDArray[np.uint8]:
    return np.stack([drawn[key].shape for key in keys])


def _write_pairs(
    folder: Path,
    entries: Sequence[IconEntry],
    drawn: Drawings,
    templates: Sequence[Callable[[str], str]],
) -> list[IconEntry]:
    """Write a store of drawings, each with a caption in one of the templates, always the same one.

    Returns its entries: a repeated pair of image and caption is left out.
    """
    folder.mkdir(parents=True)
    writer, used, keys = ShardWriter(folder), [], set[bytes]()
    for entry in entries:
        draw = int.from_bytes(keyed_digest("template", *entry.key)[:8], "big")
        caption = templates[draw % len(templates)](entry.caption)
        png = drawn[entry.key].png
        key = pair_key(bytes_hash(png), caption)
        if key not in keys:
            keys.add(key)
            used.append(entry)
            writer.add(png, "png", caption, key=key)
    write_store(folder, *writer.close())
    return used


def _write_evaluation(
    folder: Path, names: Sequence[str], images: Sequence[IconEntry], drawn: Drawings
) -> None:
    folder.mkdir(parents=True)
    label_of = {name: label for label, name in enumerate(names)}
    writer = ShardWriter(folder)
    for entry in images:
        writer.add(drawn[entry.key].png, "png", entry.caption, label_of[entry.caption])
    write_store(folder, *writer.close())


def _write_copies(
    folder: Path, shown: Sequence[IconEntry], copies: Copies, drawn: Drawings, pairs: Path
) -> None:
    """Some near-copies for the report, each beside the training drawing it resembles."""
    store = PairStore.open(pairs)
    content = []
    for entry in shown:
        similarity, row = copies[entry.key]
        content.append(
            {
                "class": entry.caption,
                "image": base64.b64encode(drawn[entry.key].png).decode(),
                "training_caption": store.captions[row],
                "training_image": base64.b64encode(store.image_bytes(row)).decode(),
                "correlation": round(similarity, 4),
            }
        )
    write_json(folder / "near-copies.json", content)


def _attribution(survey: Survey, stores: Mapping[str, Sequence[IconEntry]]) -> dict[str, Any]:
    """Content of attribution.json: author and licence of every set in use."""
    # Name of a set -> number of its images in each store.
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for name, entries in stores.items():
        for entry in entries:
            used[entry.set][name] += 1

    credits = []
    for name, counts in sorted(used.items()):
        icon_set = survey.sets[name]
        credits.append(
            {
                "set": name,
                "title": icon_set.entry["name"],
                "copyright": icon_set.vendor,
                "held_out": icon_set.vendor in survey.rule.held_out_vendors,
                "license": icon_set.licence,
                "license_url": icon_set.entry["license"].get("url"),
                "source": icon_set.entry["author"].get("url"),
                "package": ICONS.name,
                "version": ICONS.version,
                "images": {store: counts[store] for store in stores},
            }
        )
    changes = "rasterised, one-colour drawings coloured, set on a ground"
    return {"changes": changes, "images": credits, "text": [WORDNET_CREDIT]}


def _nearest_neighbour_accuracy(
    pairs: Sequence[IconEntry], images: Sequence[IconEntry], drawn: Drawings
) -> float:
    """Share of evaluation images whose nearest training drawing bears the name of their class.

    The accuracy without learning, a reference for zero-shot accuracy.
    """
    shapes = [_shapes(drawn, [entry.key for entry in part]) for part in (images, pairs)]
    _, rows = find_nearest(*shapes)
    right = [pairs[row].caption == image.caption for row, image in zip(rows, images, strict=True)]
    return float(np.mean(right))
