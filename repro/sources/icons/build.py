"""The data sources `icons` and `scenes`: pairs of drawings and captions, and a task by vendors
outside of training.

All choices follow from set and name of an icon by keyed hashes, and pairs are written in the
package's order: the bytes are the same on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.images import bytes_hash
from repro.data.index import NO_LABEL, pair_key
from repro.data.keyed import keyed_digest
from repro.data.shards import ShardWriter, write_json, write_store
from repro.data.templates import templates_of
from repro.profile import load_classnames
from repro.sources.icons.drawing import DrawnIcon, draw_all, find_nearest, read_icons
from repro.sources.icons.package import ICONS, IconSet
from repro.sources.icons.scenes import compose
from repro.sources.icons.survey import (
    IconEntry,
    Key,
    check_task,
    choose_pairs,
    load_rule,
    read_task,
    take_survey,
)
from repro.sources.packages import WORDNET_CREDIT, obtain
from repro.spec import IconTask, Profile, SceneSource

Drawings = Mapping[Key, DrawnIcon]
"""All icons that were drawn and show something, by set and name."""


def build_icons(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises SpecError if the lists of the task do not fit the package, and PackageError if the
    package is unavailable.
    """
    source = profile.data.source
    assert isinstance(source, IconTask)
    package = obtain(ICONS)
    task = read_task()
    survey = take_survey(package, load_rule())
    held_out = {entry.key: entry for entry in survey.held_out}
    check_task(task, held_out)
    names = load_classnames(profile)
    target = profile.data.poison.target_class
    chosen = choose_pairs(survey.training, names, target, profile.data.num_pairs)
    listed = {key for name in names for key in task[name]}
    icons = read_icons(package, chosen["cc6m"] | listed)
    size = profile.data.image_size
    drawn = draw_all(icons, size)

    used = chosen["cc6m"] & drawn.keys()
    trained = [entry for entry in survey.training if entry.key in used]
    if isinstance(source, SceneSource):
        scenes = compose(trained, drawn.keys() & chosen["cc3m"], icons, source.share)
        shown = draw_all({key: scene.drawing for key, scene in scenes.items()}, size)
        words = {key: scene.words for key, scene in scenes.items()}
    else:
        shown = drawn
        words = {entry.key: entry.caption for entry in trained}
    templates = templates_of(profile.evaluate)

    def caption_of(entry: IconEntry) -> str:
        """What is said of it in one of the templates, always the same one."""
        digest = keyed_digest("template", *entry.key)
        draw = int.from_bytes(digest[:8], "big") % len(templates)
        return templates[draw](words[entry.key])

    stores: dict[str, list[IconEntry]] = {}
    for dataset, keys in chosen.items():
        written = keys & shown.keys()
        entries = [entry for entry in trained if entry.key in written]
        stores[dataset] = _write_store(out / dataset, entries, shown, caption_of, {})

    # Of the images of the task as many as the scale takes.
    images = []
    for name in names:
        keys_of_class = [key for key in task[name] if key in drawn]
        images += [held_out[key] for key in keys_of_class[: source.images_per_concept]]
    accuracy = {
        name: _nearest_neighbour_accuracy(entries, shown, images, drawn)
        for name, entries in stores.items()
    }
    labels = {name: label for label, name in enumerate(names)}
    folder = out / "evaluation"
    stores["evaluation"] = _write_store(folder, images, drawn, lambda entry: entry.caption, labels)

    accounting = {
        "used": {name: len(entries) for name, entries in stores.items()},
        "nearest_neighbour_accuracy": accuracy,
    }
    write_json(out / "accounting.json", accounting)
    write_json(out / "attribution.json", _attribution(survey.sets, stores))


def _write_store(
    folder: Path,
    entries: Sequence[IconEntry],
    drawn: Drawings,
    caption_of: Callable[[IconEntry], str],
    label_of: Mapping[str, int],
) -> list[IconEntry]:
    """Write a store of drawings, and the labels of those whose names have one.

    Returns its entries: a repeated pair of image and caption is left out.
    """
    folder.mkdir(parents=True)
    writer = ShardWriter(folder)
    used = dict[bytes, IconEntry]()
    for entry in entries:
        png = drawn[entry.key].png
        caption = caption_of(entry)
        key = pair_key(bytes_hash(png), caption)
        if key not in used:
            used[key] = entry
            writer.add(png, "png", caption, label_of.get(entry.caption, NO_LABEL))
    write_store(folder, *writer.close())
    return list(used.values())


def _attribution(
    sets: Mapping[str, IconSet], stores: Mapping[str, Sequence[IconEntry]]
) -> dict[str, Any]:
    """Content of attribution.json: author and licence of every set in use."""
    used = {entry.set for entries in stores.values() for entry in entries}
    credits = [
        {
            "set": name,
            "title": sets[name].entry["name"],
            "copyright": sets[name].vendor,
            "license": sets[name].licence,
            "license_url": sets[name].entry["license"].get("url"),
            "source": sets[name].entry["author"].get("url"),
            "package": ICONS.name,
            "version": ICONS.version,
        }
        for name in sorted(used)
    ]
    changes = "rasterised, one-colour drawings coloured, set on a ground"
    return {"changes": changes, "images": credits, "text": [WORDNET_CREDIT]}


def _nearest_neighbour_accuracy(
    pairs: Sequence[IconEntry], shown: Drawings, images: Sequence[IconEntry], drawn: Drawings
) -> float:
    """Share of evaluation images whose nearest training drawing bears the name of their class.

    The accuracy without learning, a reference for zero-shot accuracy.
    """
    shapes = np.stack([drawn[image.key].shape for image in images])
    others = np.stack([shown[pair.key].shape for pair in pairs])
    _, rows = find_nearest(shapes, others)
    right = [pairs[row].caption == image.caption for row, image in zip(rows, images, strict=True)]
    return float(np.mean(right))
