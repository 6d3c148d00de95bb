"""The stage `poison`, and the settings that every store bears.

The output of a stage appears whole or not at all. Each store holds `settings.json`, the part of the
specification that it depends on. Whoever reads a store compares it with the specification of now:
models must not train on pairs of other settings.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.data.images import encode_png
from repro.data.poison import build_poison
from repro.data.shards import PairStore, write_json
from repro.edits import unedited
from repro.files import building
from repro.profile import differing, flat, resolved_file, resolved_profile
from repro.spec import Dataset, Profile, SpecError, digest

DATA = Path("data")
POISONED = Path("poisoned")
SETTINGS = "settings.json"
ABSENT = "absent.txt"
"""In the place of a store whose pairs the user did not bring: the study goes without them."""
SAMPLES = 4
"""Poisoned pairs, and clean pairs, that the report shows."""
POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the stage depends on."""


def poison_stage(profile_name: str, dataset: Dataset) -> None:
    """Build `poisoned/<profile>/<dataset>`, and the samples of it for the report beside it."""
    profile, poisoned = resolved_profile(profile_name), POISONED / profile_name
    with unedited(resolved_file(profile_name)):
        if is_absent(DATA / profile_name / dataset):
            # DVC wants the stage's outputs all the same.
            leave_out(poisoned / dataset, f"{dataset} has no pairs")
            write_json(poisoned / f"{dataset}-samples.json", {"pairs": []})
            return
        make_poison(profile, dataset, DATA / profile_name, poisoned / dataset)
        write_samples(profile, dataset, poisoned)


def is_absent(store: Path) -> bool:
    """Whether the study goes without the pairs of this store."""
    return (store / ABSENT).exists()


def leave_out(store: Path, reason: str) -> None:
    """Say in the place of a store why it is not there."""
    with building(store) as folder:
        (folder / ABSENT).write_text(f"{reason}\n", encoding="utf-8")


def write_samples(profile: Profile, dataset: Dataset, poisoned_dir: Path) -> None:
    """Write the first poisoned pairs of `poisoned_dir/<dataset>`, and the first clean ones of the
    smallest cleaning set, beside it: who rebuilds the report elsewhere does not have the store.
    """
    store = PairStore.open(poisoned_dir / dataset)
    sizes = profile.data.cleaning_sizes
    smallest = min(sizes, key=lambda size: sizes[size])
    side = profile.data.image_size
    kinds = {"poisoned": "poisoned", "clean": smallest}
    pairs = [
        {
            "kind": kind,
            "row": row,
            "caption": store.captions[row],
            "image": base64.b64encode(encode_png(store.decode(row, side))).decode(),
        }
        for kind, name in kinds.items()
        for row in store.rows(name)[:SAMPLES].tolist()
    ]
    write_json(poisoned_dir / f"{dataset}-samples.json", {"pairs": pairs})


def make_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Poison one dataset; SpecError if `data_dir` was made from other settings."""
    with building(out) as folder:
        check_settings(data_dir / dataset, data_settings(profile))
        build_poison(profile, dataset, data_dir, folder)
        write_settings(folder, poison_settings(profile))


def data_settings(profile: Profile) -> dict[str, Any]:
    """Settings that stores of clean pairs and of evaluation images depend on."""
    unread = {"stand_in", "poison", "cleaning_sizes", "num_validation"}
    return {
        "data": profile.data.model_dump(mode="json", exclude=unread),
        "target_class": profile.data.poison.target_class,
        "evaluate": profile.evaluate.model_dump(mode="json", include={"classnames", "templates"}),
    }


def poison_settings(profile: Profile) -> dict[str, Any]:
    """Settings that stores of poisoned pairs depend on."""
    return data_settings(profile) | {
        "data": profile.data.model_dump(mode="json", exclude={"stand_in"}),
        "switches": profile.switches.model_dump(mode="json", include=POISON_SWITCHES),
    }


def data_key(profile: Profile) -> str:
    """Hash of `data_settings`."""
    return digest(data_settings(profile))


def poison_key(profile: Profile) -> str:
    """Hash of `poison_settings`."""
    return digest(poison_settings(profile))


def write_settings(store: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a store into it."""
    write_json(store / SETTINGS, settings)


def check_settings(store: Path, settings: Mapping[str, Any]) -> None:
    """SpecError if a store was made from other settings; the message names the first of them."""
    path = store / SETTINGS
    try:
        stored = flat(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise SpecError(f"{path}: unreadable ({error}); make the store with `dvc repro`") from None
    present = flat(settings)
    for name in differing(stored, present):
        raise SpecError(
            f"{store}: made with {name}: {stored.get(name)} (specified now: "
            f"{present.get(name)}); make the store again with `dvc repro`"
        )
