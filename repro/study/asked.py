"""The training runs that a study asks for, from specifications alone."""

from __future__ import annotations

from pathlib import Path

from repro.profile import SPECS, clean_runs, pretrain_runs
from repro.spec import Profile, RunSpec
from repro.study.spec import Stage, Study, load_study, owner, varied

Profiles = dict[tuple[str, Stage], Profile]
"""What is run, by variant and stage."""


def study_profiles(study: Study, specs: Path = SPECS) -> Profiles:
    """The variants' profiles; a borrowed pre-training has its lender's, with their own seeds."""
    borrowed = {variant.models for variant in study.variants.values() if variant.models}
    lent = {name: load_study(owner(name, specs), specs).variants[name] for name in borrowed}

    profiles: Profiles = {}
    for label, variant in study.variants.items():
        for stage in study.stages:
            source = variant
            if stage == "pretrain" and variant.models is not None:
                source = lent[variant.models].model_copy(update={"seeds": variant.seeds})
            profiles[label, stage] = varied(study, source, specs)
    return profiles


def asked_runs(study: Study, profiles: Profiles, label: str, stage: Stage) -> list[RunSpec]:
    """Runs of a stage of one variant; a borrowed pre-training is the lender's run under this
    variant's name.
    """
    variant, profile = study.variants[label], profiles[label, stage]
    if stage == "pretrain":
        runs = pretrain_runs(profile, variant=label, poisoned=variant.poisoned)
    else:
        rates = study.learning_rates
        runs = [
            run
            for run in clean_runs(profile, variant=label, poisoned=variant.poisoned)
            if run.clean_size in study.clean_sizes
            and run.loss in study.losses
            and (not rates or run.schedule.learning_rate in rates)
        ]
    objectives = variant.pretrain_objectives
    return [r for r in runs if r.dataset in study.datasets and r.pretrain_objective in objectives]
