"""The data that the variants of a study train on; variants share what they do not change."""

from __future__ import annotations

from pathlib import Path

from repro.data.stages import (
    DATA,
    POISONED,
    check_settings,
    data_key,
    make_poison,
    poison_key,
)
from repro.profile import load_profile
from repro.sources.stage import make_data
from repro.spec import Profile
from repro.study.spec import Study


def variant_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant's profile, made where they are not there
    yet; SpecError for those that were made from other settings.

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
    check_settings(data, data_key(profile))

    for dataset in study.datasets:
        if not (poisoned / dataset).exists():
            make_poison(profile, dataset, data, poisoned / dataset)
        check_settings(poisoned / dataset, poison_key(profile))
    return data, poisoned
