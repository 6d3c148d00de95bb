"""The stages `data` and `poison`: output appears whole or not at all, and a rerun replaces it.

What a killed run left under a temporary name is removed by the next one.
"""

from __future__ import annotations

from pathlib import Path

from repro.files import building
from repro.profile import load_profile
from repro.spec import Dataset, Profile

DATA = Path("data")
POISONED = Path("poisoned")


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
