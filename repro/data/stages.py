"""The stage `poison`, and the settings that every store bears.

The output of a stage appears whole or not at all. Each store holds `settings.json`, the part of the
specification that it depends on. Whoever reads a store compares it with the specification of now:
models must not train on pairs of other settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.files import building
from repro.spec import Dataset, Profile, SpecError, digest
from repro.unchanged import unchanged

DATA = Path("data")
POISONED = Path("poisoned")
SETTINGS = "settings.json"
POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the stage depends on."""


def poison_stage(profile_name: str, dataset: Dataset) -> None:
    """Build `poisoned/<profile>/<dataset>`, and the samples of it for the report beside it."""
    from repro.data.samples import write_samples  # its templates bring torch

    with unchanged(profile_name, poison_settings, ("data", "spec.py")) as profile:
        make_poison(profile, dataset, DATA / profile_name, POISONED / profile_name / dataset)
        write_samples(profile, dataset, DATA / profile_name, POISONED / profile_name)


def make_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Poison one dataset; SpecError if `data_dir` was made from other settings."""
    from repro.data.poison import build_poison  # its templates bring torch

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
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    (store / SETTINGS).write_text(text, encoding="utf-8")


def check_settings(store: Path, settings: Mapping[str, Any]) -> None:
    """SpecError if a store was made from other settings; the message names the first of them."""
    path = store / SETTINGS
    try:
        stored = _flat(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: unreadable ({error}); make the store with `dvc repro`") from None
    wanted = _flat(json.loads(json.dumps(settings)))
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise SpecError(
                f"{store}: made with {name}: {stored.get(name)!r} (specified now: "
                f"{wanted.get(name)!r}); make the store again with `dvc repro`"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
