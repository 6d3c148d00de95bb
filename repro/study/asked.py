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

    found: Profiles = {}
    for label, variant in study.variants.items():
        for stage in study.stages:
            of = variant
            if stage == "pretrain" and variant.models is not None:
                of = lent[variant.models].model_copy(update={"seeds": variant.seeds})
            found[label, stage] = varied(study, of, specs)
    return found


def asked_runs(study: Study, profiles: Profiles, label: str, stage: Stage) -> list[RunSpec]:
    """Runs of a stage of one variant; a borrowed pre-training is the lender's run under this
    variant's name.
    """
    variant, profile = study.variants[label], profiles[label, stage]
    expand = pretrain_runs if stage == "pretrain" else clean_runs

    def asked_for(run: RunSpec) -> bool:
        if run.dataset not in study.datasets:
            return False
        if run.pretrain_objective not in variant.pretrain_objectives:
            return False
        if stage == "pretrain":
            return True
        if run.clean_size not in study.clean_sizes or run.loss not in study.losses:
            return False
        return not study.learning_rates or run.schedule.learning_rate in study.learning_rates

    runs = expand(profile, variant=label, poisoned=variant.poisoned)
    return [run for run in runs if asked_for(run)]
