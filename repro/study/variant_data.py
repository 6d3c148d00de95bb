"""The data that the variants of a study train on; variants share what they do not change."""

from __future__ import annotations

from pathlib import Path

from repro.data.stages import DATA, POISONED, make_poison
from repro.profile import load_profile
from repro.sources.stage import make_data
from repro.spec import Profile, digest
from repro.study.spec import Study

POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the poison stage depends on."""


def variant_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant's profile, made where they are not there
    yet.

    What the variant leaves as it is lies in the folders of the study's own profile.
    """
    # A folder of its own, named by its content, only where the variant changes what is in it.
    base = load_profile(study.profile)
    data, poisoned = DATA / base.name, POISONED / base.name
    if data_key(profile) != data_key(base):
        data = DATA / "studies" / data_key(profile)
    if poison_key(profile) != poison_key(base):
        poisoned = POISONED / "studies" / poison_key(profile)

    if not data.exists():
        make_data(profile, data)
    for dataset in study.datasets:
        if not (poisoned / dataset).exists():
            make_poison(profile, dataset, data, poisoned / dataset)

    return data, poisoned


def data_key(profile: Profile) -> str:
    """Hash of all that the stage `data` depends on."""
    source = profile.data.model_dump(mode="json", exclude={"poison", "cleaning_sizes"})
    task = profile.evaluate.model_dump(mode="json", include={"classnames", "templates"})
    return digest([source, profile.data.poison.target_class, task])


def poison_key(profile: Profile) -> str:
    """Hash of all that the stage `poison` depends on."""
    switches = profile.switches.model_dump(mode="json", include=POISON_SWITCHES)
    return digest([data_key(profile), profile.data.model_dump(mode="json"), switches])
