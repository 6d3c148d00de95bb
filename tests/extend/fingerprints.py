"""Digests of what runs of the smaller profiles and studies compute: `python FILE` by specs/."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import repro
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import RunSpec, digest
from repro.study.spec import asked_runs, load_study, study_names, study_profiles

PROFILES = ("smoke", "mini")


def digests(but: Sequence[str] = ()) -> dict[str, str]:
    """Name of every run of PROFILES and of their studies to the digest of what it computes."""
    found = {}
    for name in PROFILES:
        profile = load_profile(name)
        found |= _named(name, [*pretrain_runs(profile), *clean_runs(profile)])
    for name in study_names():
        study = load_study(name)
        if study.profile in PROFILES and name not in but:
            profiles = study_profiles(study)
            parts = [asked_runs(study, profiles, *key) for key in profiles]
            found |= _named(name, list(chain.from_iterable(parts)))
    return found


def _named(name: str, runs: list[RunSpec]) -> dict[str, str]:
    return {
        " ".join([name, run.stage, run.model_name, run.run_id]): digest(run.computed())
        for run in runs
    }


if __name__ == "__main__":
    found = digests(but=["mine"])
    print(json.dumps({"package": str(Path(repro.__file__).parent), "digests": found}))
