"""The stages `data` and `poison`: output appears whole or not at all, and a rerun replaces it.

What a killed run left under a temporary name is removed by the next one. A file beside each output
tells the settings that it was made from.
"""

from __future__ import annotations

from pathlib import Path

from repro.files import building, replace_file
from repro.profile import load_profile
from repro.spec import Dataset, Profile, SpecError, digest

DATA = Path("data")
POISONED = Path("poisoned")
POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the poison stage depends on."""


def poison_stage(profile_name: str, dataset: Dataset) -> None:
    """Build `poisoned/<profile>/<dataset>` from `data/<profile>/<dataset>`, and beside it the
    samples that the report shows.
    """
    from repro.data.samples import write_samples  # its templates come with torch

    profile = load_profile(profile_name)
    make_poison(profile, dataset, DATA / profile_name, POISONED / profile_name / dataset)
    write_samples(profile, dataset, DATA / profile_name, POISONED / profile_name)


def make_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Poison one dataset of the data in `data_dir`; `out` appears when complete."""
    from repro.data.poison import build_poison  # its templates come with torch

    with building(out) as folder:
        build_poison(profile, dataset, data_dir, folder)
    tell_settings(out, poison_key(profile))


def data_key(profile: Profile) -> str:
    """Hash of all settings that the stage `data` depends on."""
    source = profile.data.model_dump(mode="json", exclude={"poison", "cleaning_sizes"})
    task = profile.evaluate.model_dump(mode="json", include={"classnames", "templates"})
    return digest([source, profile.data.poison.target_class, task])


def poison_key(profile: Profile) -> str:
    """Hash of all settings that the stage `poison` depends on."""
    switches = profile.switches.model_dump(mode="json", include=POISON_SWITCHES)
    return digest([data_key(profile), profile.data.model_dump(mode="json"), switches])


def tell_settings(out: Path, key: str) -> None:
    """Write beside an output which settings it was made from."""
    replace_file(_settings_of(out), key.encode())


def check_settings(out: Path, key: str) -> None:
    """SpecError if an output tells that it was made from other settings; one that tells nothing
    counts as it is.
    """
    told = _settings_of(out)
    if told.is_file() and told.read_bytes() != key.encode():
        raise SpecError(
            f"{out}: made from other settings than the specifications have now; "
            f"delete it, and it is made again"
        )


def _settings_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.settings")
