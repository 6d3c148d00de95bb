"""Studies: a profile varied in named ways, over several seeds, with results apart from the main
graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data that each variant needs,
runs its trainings through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`.
Variants share data, and where they say so pre-trained models, that they do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from repro.data.stages import data_key, make_poison, poison_key
from repro.launch.driver import run_all
from repro.profile import SPECS, load_profile
from repro.runs.deliver import is_delivered
from repro.runs.inputs import check_stores, input_hash
from repro.runs.layout import DATA, POISONED, WORK, model_dir, results_dir, standard_inputs
from repro.runs.published import RECORD, read_record, read_results
from repro.runs.run import Run, fingerprint_of, identify
from repro.sources.stage import make_data
from repro.spec import Dataset, Profile, RunSpec, SpecError
from repro.study.archive import read_archive, unpack_run, write_archive
from repro.study.asked import Profiles, asked_runs, study_profiles
from repro.study.spec import (
    Model,
    Stage,
    Study,
    archive_of,
    lenders,
    load_study,
    study_names,
    varied,
)
from repro.unchanged import DIGITS, unchanged


def study_command(
    name: str,
    seeds: Collection[int] = (),
    variants: Collection[str] = (),
    dry_run: bool = False,
) -> None:
    """Bring the study up to date, or its part of some seeds and variants, and print its table.

    `dry_run` prints what is due instead.
    """
    if dry_run:
        print(due_table(name, seeds, variants))
        return
    run_study(name, seeds, variants)
    print(outcome_table(name))


def due_table(name: str, seeds: Collection[int] = (), variants: Collection[str] = ()) -> str:
    """Runs of a study that its archive lacks, by variant and stage, with core-hours: the mean time
    of archived runs of the profile of the same stage and loss, where there is none the longest of
    the stage.
    """
    study = load_study(name)
    models = _chosen(name, study, seeds, variants)
    profiles = study_profiles(study)
    archives = {n: read_archive(archive_of(n)) for n in study_names() if archive_of(n).exists()}
    archived = [record.spec for record, _ in archives.get(name, [])]
    times = pd.DataFrame(
        [
            {"stage": record.spec.stage, "loss": record.spec.loss, "hours": record.seconds / 3600}
            for runs in archives.values()
            for record, _ in runs
            if record.spec.profile == study.profile
        ],
        columns=["stage", "loss", "hours"],
    )
    mean = times.groupby(["stage", "loss"]).hours.mean()
    longest = mean.groupby("stage").max()
    due = [
        (label, stage, mean.get((spec.stage, spec.loss), longest.get(stage, math.nan)))
        for label, variant in study.variants.items()
        for stage in study.stages
        # Borrowed models are trained once, by the variant that has them.
        if stage == "clean" or variant.models is None
        for spec in asked_runs(study, profiles, label, stage)
        if (label, spec.seed) in models and spec not in archived
    ]
    table = pd.DataFrame(due, columns=["variant", "stage", "hours"])
    rows = table.groupby(["variant", "stage"], sort=False).hours.agg(runs="size", core_hours="sum")
    return f"{rows.round(1)}\n{len(table)} runs, {table.hours.sum():.1f} core-hours"


def outcome_table(name: str) -> str:
    """Zero-shot top-1 accuracy and ASR in percent at start and end of each training of a study in
    its archive, means over seeds.
    """
    outcomes = []
    for record, rows in read_archive(archive_of(name)):
        if not rows:
            continue
        training = record.spec.run_id.removesuffix(f"-seed{record.spec.seed}")
        outcome = {"model": record.spec.cell, "training": training, "seeds": 1}
        for when, row in ("start", rows[0]), ("end", rows[-1]):
            outcome |= {when: 100 * row.accuracy, f"{when} ASR": 100 * row.asr("non_target")}
        outcomes.append(outcome)
    by_training = pd.DataFrame(outcomes).groupby(["model", "training"])
    table = by_training.mean().assign(seeds=by_training.size())
    return str(table.to_string(float_format="{:.1f}".format))


def run_study(name: str, seeds: Collection[int] = (), variants: Collection[str] = ()) -> None:
    """Bring the results of a study, or of some of its seeds and variants, up to date; runs that are
    finished, here or in the archive, are not run again.

    The results are archived however it ends, since a study takes several sittings. Archives of
    lenders stay as they are: they are other stages' outputs, and their cleaning was of the models
    that they had.
    """
    study = load_study(name)
    chosen = _chosen(name, study, seeds, variants)
    models = [(study.variants[label].models, seed) for label, seed in chosen]
    lent_inside = {(label, seed) for label, seed in models if label in study.variants}

    with unchanged(study.profile, Profile.model_dump, DIGITS, [SPECS / "studies" / f"{name}.yaml"]):
        own = _part(name, study, study.stages, study.datasets, chosen, lent_inside)
        lent = [
            _part(lender, load_study(lender), ["pretrain"], study.datasets, borrowed)
            for lender, borrowed in lenders(study, chosen).items()
            if lender != name
        ]
        needed = _models_needed(own, lent)
        # Models that other studies train come first.
        for part in lent:
            _run_part(part, needed)
        try:
            _run_part(own, needed)
        finally:
            results = read_results(own.delivered)
            runs = [(record, rows) for _, record, rows in results]
            write_archive(
                archive_of(name), [run for run in runs if run[0].spec.variant in study.variants]
            )


def _chosen(
    name: str, study: Study, seeds: Collection[int], variants: Collection[str]
) -> set[Model]:
    """The models of some seeds and variants, of all where none is given.

    SpecError for a seed or variant that is not there, or a rate that the sweep of a variant lacks.
    """
    path = f"specs/studies/{name}.yaml"
    models = {(label, seed) for label, variant in study.variants.items() for seed in variant.seeds}
    every = {"--seeds": {seed for _, seed in models}, "--variants": set(study.variants)}
    for option, chosen in ("--seeds", seeds), ("--variants", variants):
        if unknown := sorted(set(chosen) - every[option]):
            allowed = ", ".join(map(str, sorted(every[option])))
            raise SpecError(f"{option}: {unknown[0]} (allowed by {path}: {allowed})")
    for label, variant in study.variants.items():
        cells = varied(study, variant).clean.cells if study.learning_rates else []
        rates = {rate for cell in cells for rate in cell.learning_rates}
        for rate in study.learning_rates:
            if rate not in rates:
                raise SpecError(
                    f"{path}: learning_rates: {rate:g} for variant {label!r} "
                    f"(allowed: {', '.join(f'{allowed:g}' for allowed in sorted(rates))})"
                )
    return {
        (label, seed)
        for label, seed in models
        if (not seeds or seed in seeds) and (not variants or label in variants)
    }


@dataclass(frozen=True)
class StudyPart:
    """Runs of a study that are due now: its own, or those that another study borrows."""

    runs: dict[Stage, list[RunSpec]]
    whole: dict[Stage, list[RunSpec]]
    """All runs of the study at these stages."""
    inputs: Callable[[RunSpec], dict[str, Path]]
    delivered: Path
    """Folder of the results, below `work/studies`."""


def _part(
    name: str,
    study: Study,
    stages: Collection[Stage],
    datasets: Collection[Dataset],
    models: Collection[Model],
    lent: Collection[Model] = (),
) -> StudyPart:
    """The runs of some models of a study, and the pre-training of those that it lends them; its
    archived results are laid out as delivered ones.
    """
    delivered = WORK / "studies" / name
    if archive_of(name).exists():
        for record, rows in read_archive(archive_of(name)):
            unpack_run(record, rows, results_dir(record.spec, delivered) / record.spec.run_id)
    profiles = study_profiles(study)
    whole = {
        stage: [
            run for label in study.variants for run in asked_runs(study, profiles, label, stage)
        ]
        for stage in stages
    }
    of_stage = {stage: {*models, *lent} if stage == "pretrain" else models for stage in stages}
    runs = {
        stage: [
            r
            for r in whole[stage]
            if r.dataset in datasets and (r.variant, r.seed) in of_stage[stage]
        ]
        for stage in stages
    }
    return StudyPart(runs, whole, study_inputs(study, profiles), delivered)


def _models_needed(own: StudyPart, lent: list[StudyPart]) -> set[Path]:
    """Folders of the models that a cleaning run which is still due starts from.

    Models do not lie in git, rows do: a model whose cleaning runs are all archived is not trained
    again to be cleaned by none.
    """
    # Where two archives of different machines met, the study has cleaned the lender's training, but
    # not the very model in the lender's archive: of a lent one any hash will do.
    starts: dict[Path, str | None] = {
        folder: None for part in lent for folder in _archived_models(part)
    }
    starts |= _archived_models(own)

    needed = set()
    for spec in own.runs.get("clean", ()):
        inputs = own.inputs(spec)
        folder = inputs.pop("model")
        hashes = {name: input_hash(path, spec) for name, path in inputs.items()}
        path = results_dir(spec, own.delivered) / spec.run_id / RECORD
        archived = read_record(path).inputs.get("model", "") if path.exists() else ""
        hashes["model"] = starts.get(folder) or archived
        run = Run(spec, fingerprint_of(spec, hashes), {}, "")

        finished = folder in starts and is_delivered(run, own.delivered)
        if finished and starts[folder] is None:
            # All of its cleaning has to be of one model.
            starts[folder] = hashes["model"]
        if folder.exists() or not finished:
            needed.add(folder)
    return needed


def _archived_models(part: StudyPart) -> dict[Path, str]:
    """Folders and hashes of the models whose pre-training is archived as it would be made today."""
    models = {}
    for spec in part.runs.get("pretrain", ()):
        run = identify(spec, part.inputs(spec), "")
        if is_delivered(run, part.delivered, models=False):
            record = read_record(results_dir(spec, part.delivered) / spec.run_id / RECORD)
            models[model_dir(spec)] = record.model_hash
    return models


def _run_part(part: StudyPart, models: set[Path]) -> None:
    """Run a part of a study; of its models, those that are needed are there afterwards."""
    for stage, due in part.runs.items():
        if stage == "clean":
            due = [spec for spec in due if part.inputs(spec)["model"] in models]
        kept = part.whole[stage]
        run_all(due, part.inputs, results=part.delivered, kept=kept, models=models)


def study_inputs(study: Study, profiles: Profiles) -> Callable[[RunSpec], dict[str, Path]]:
    """Where the inputs of a run of the study lie; data that are not there are made."""

    @cache
    def folders(label: str, stage: Stage) -> tuple[Path, Path]:
        return variant_folders(study, profiles[label, stage])

    def inputs(spec: RunSpec) -> dict[str, Path]:
        data, poisoned = folders(spec.variant, spec.stage)
        paths = standard_inputs(spec)
        paths |= {"evaluation": data / "evaluation", "synonyms": data / "synonyms.json"}

        # The control is pre-trained on unpoisoned pairs; the cleaning sets lie in the poisoned
        # store.
        from_poisoned = spec.poisoned or spec.stage == "clean"
        paths["pairs"] = (poisoned if from_poisoned else data) / spec.dataset

        # A variant without models of its own cleans those that it borrows.
        if "model" in paths:
            lent = study.variants[spec.variant].models or spec.variant
            paths["model"] = model_dir(spec.model_copy(update={"variant": lent}))
        return paths

    return inputs


def variant_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant's profile, made where they are not there
    yet; SpecError for those that were made from other settings.
    """
    # A folder of its own, named by its content, only where the variant changes its content.
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
    check_stores(profile, data, poisoned, study.datasets)
    return data, poisoned
