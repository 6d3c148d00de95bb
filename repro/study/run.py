"""Studies: a profile varied in named ways, over several seeds, with results apart from the main graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data each variant needs, runs its trainings
through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`. Variants share data, and where they say so
pre-trained models, that they do not change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from repro.launch.driver import run_all
from repro.ledger import read_results
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.layout import WORK, model_dir, results_dir, standard_inputs
from repro.spec import (
    Profile,
    RunSpec,
    digest,
)
from repro.study.archive import read_archive, unpack_run, write_archive
from repro.study.spec import Study, archive_of, lenders, load_study, varied

POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the poison stage depends on."""


def run_study(name: str) -> None:
    """Bring the results of a study up to date; what is finished, here or in the archive, is not run again.

    They are archived however it ends, since a study takes several sittings. Archives of lenders stay as they are: they are
    other stages' outputs, and their cleaning was of the models that they had.
    """
    study = load_study(name)
    models = "clean" in study.stages
    for of, variants in lenders(study).items():
        if of != name:
            lender = load_study(of)
            part = lender.model_copy(
                update={"stages": ["pretrain"], "datasets": study.datasets, "variants": variants}
            )
            _run(of, part, whole=lender, models=models)
    try:
        _run(name, study, whole=study, models=models)
    finally:
        found = (
            (record, rows)
            for _, record, rows in read_results(_results_of(name))
            if record.spec.variant in study.variants
        )
        write_archive(archive_of(name), found)


def _run(name: str, part: Study, whole: Study, models: bool) -> None:
    """Run a part of the study; its results are published below `work/studies`.

    Models do not lie in git: a study that cleans trains those again that are not there, any other makes do with their rows.
    """
    published = _results_of(name)
    if archive_of(name).exists():
        for record, rows in read_archive(archive_of(name)):
            unpack_run(record, rows, results_dir(record.spec, published) / record.spec.run_id)
    profiles = {label: varied(part, variant) for label, variant in part.variants.items()}
    folders = {label: _data_folders(part, profile) for label, profile in profiles.items()}

    def inputs(spec: RunSpec) -> dict[str, Path]:
        data, poisoned = folders[spec.variant]
        found = standard_inputs(spec)
        found["pairs"] = (
            poisoned / spec.dataset
            if spec.poisoned or spec.stage == "clean"
            else data / spec.dataset
        )
        if "model" in found:
            lent = part.variants[spec.variant].models or spec.variant
            found["model"] = model_dir(spec.model_copy(update={"variant": lent}))
        return found | {"evaluation": data / "evaluation", "synonyms": data / "synonyms.json"}

    for stage in part.stages:
        due = [
            run for label, profile in profiles.items() for run in _runs(part, label, profile, stage)
        ]
        every = [
            run
            for label, variant in whole.variants.items()
            for run in _runs(whole, label, varied(whole, variant), stage)
        ]
        run_all(due, inputs, results=published, kept=every, models=models)


def _runs(
    study: Study, label: str, profile: Profile, stage: Literal["pretrain", "clean"]
) -> list[RunSpec]:
    """Runs of a stage of one variant; a borrowed pre-training is the lender's run under this variant's name."""
    variant = study.variants[label]
    expand = pretrain_runs if stage == "pretrain" else clean_runs
    return [
        run
        for run in expand(profile, variant=label, poisoned=variant.poisoned)
        if run.dataset in study.datasets
        and run.pretrain_objective in variant.pretrain_objectives
        and (
            stage == "pretrain"
            or (run.clean_size in study.clean_sizes and run.loss in study.losses)
        )
    ]


def _results_of(name: str) -> Path:
    return WORK / "studies" / name


def _data_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant, made if they are not the profile's own and not there yet."""
    from repro.data.stages import (  # the renderer is not needed to read a study
        DATA,
        POISONED,
        make_poison,
    )
    from repro.sources.stage import make_data

    base = load_profile(study.profile)
    data, poisoned = DATA / base.name, POISONED / base.name
    if _data_key(profile) != _data_key(base):
        data = DATA / "studies" / _data_key(profile)
    if not data.exists():
        make_data(profile, data)
    if _poison_key(profile) != _poison_key(base):
        poisoned = POISONED / "studies" / _poison_key(profile)
    for dataset in study.datasets:
        if not (poisoned / dataset).exists():
            make_poison(profile, dataset, data, poisoned / dataset)
    return data, poisoned


def _data_key(profile: Profile) -> str:
    content = profile.data.model_dump(mode="json", exclude={"poison", "cleaning_sizes"})
    return digest(
        [
            content,
            profile.data.poison.target_class,
            profile.evaluate.model_dump(mode="json", include={"classnames", "templates"}),
        ]
    )


def _poison_key(profile: Profile) -> str:
    switches = profile.switches.model_dump(mode="json", include=POISON_SWITCHES)
    return digest([_data_key(profile), profile.data.model_dump(mode="json"), switches])
