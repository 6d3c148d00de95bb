"""Studies: a profile varied in named ways, over several seeds, with results apart from the main
graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data that each variant needs,
runs its trainings through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`.
Variants share data, and where they say so pre-trained models, that they do not change.
"""

import math
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from repro.consistency import problem_list, problems_of_training
from repro.data.stages import data_key, make_poison, poison_key
from repro.edits import unedited
from repro.files import file_sha256
from repro.launch.driver import run_all
from repro.ledger import RunRecord
from repro.profile import SPECS, load_profile
from repro.runs.deliver import is_delivered
from repro.runs.inputs import check_stores, input_hash
from repro.runs.layout import (
    DATA,
    POISONED,
    WEIGHTS,
    WORK,
    InputsOf,
    model_dir,
    results_dir,
    standard_inputs,
)
from repro.runs.published import RECORD, read_record, read_results
from repro.runs.run import Run, fingerprint_of, identify
from repro.sources.stage import make_data
from repro.spec import Dataset, Profile, RunSpec, SpecError, Stage
from repro.study.archive import read_archive, unpack_run, write_archive
from repro.study.models import TRAINED
from repro.study.spec import (
    Model,
    Profiles,
    Study,
    archive_of,
    chosen_models,
    lacking,
    lenders,
    load_study,
    own_trainings,
    study_names,
    study_profiles,
    study_runs,
    trainings_of,
)


class Due(NamedTuple):
    """Runs of a variant and stage that are due."""

    variant: str
    stage: str
    runs: int
    core_hours: float | None
    """None where no archived run of the profile and stage tells."""


def due_runs(name: str, seeds: Collection[int], variants: Collection[str]) -> list[Due]:
    """Runs that the archive lacks, after the models that they start from and that are not there.

    Core-hours are those of the mean archived run of the stage and loss.
    """
    study = load_study(name)
    chosen = chosen_models(study, seeds, variants)
    runs = [spec for spec in lacking(study, _archived(name)) if (spec.variant, spec.seed) in chosen]

    # A model has one training, whoever cleans it.
    models = {}
    for spec in runs:
        trained_by = study.variants[spec.variant].models or spec.variant
        folder = model_dir(spec.model_copy(update={"variant": trained_by}))
        if spec.stage == "pretrain" or not folder.exists():
            models[folder] = (trained_by, "pretrain", spec.pretrain_objective)
    cleanings = [(spec.variant, "clean", spec.loss) for spec in runs if spec.stage == "clean"]

    due = pd.DataFrame([*models.values(), *cleanings], columns=["variant", "stage", "loss"])
    mean = _mean_hours(study.profile)
    longest = mean.groupby("stage").max()
    due["hours"] = [
        mean.get((of.stage, of.loss), longest.get(of.stage, math.nan)) for of in due.itertuples()
    ]
    return [
        Due(variant, stage, len(hours), None if hours.isna().any() else float(hours.sum()))
        for (variant, stage), hours in due.groupby(["variant", "stage"], sort=False).hours
    ]


def _archived(name: str) -> list[RunRecord]:
    """The records in the archive of a study; none where there is no archive yet."""
    archive = archive_of(name)
    return [record for record, _ in read_archive(archive)] if archive.exists() else []


def _mean_hours(profile: str) -> pd.Series:
    """Hours of a profile's archived runs, by stage and loss."""
    archives = [archive_of(name) for name in study_names()]
    times = [
        (record.spec.stage, record.spec.loss, record.seconds / 3600)
        for archive in archives
        if archive.exists()
        for record, _ in read_archive(archive)
        if record.spec.profile == profile
    ]
    table = pd.DataFrame(times, columns=["stage", "loss", "hours"])
    return table.groupby(["stage", "loss"]).hours.mean()


def due_text(due: Sequence[Due]) -> str:
    """What is due as a table."""
    if not due:
        return "0 runs: all are in the archive"
    runs = sum(of.runs for of in due)
    known = [of.core_hours for of in due if of.core_hours is not None]
    told = f"{sum(known):.1f} core-hours" if known else "no archived run tells the core-hours"
    table = pd.DataFrame(due).astype({"core_hours": float}).round(1)
    return f"{table.to_string(index=False, na_rep='not known')}\n{runs} runs, {told}"


def run_study(
    name: str,
    seeds: Collection[int] = (),
    variants: Collection[str] = (),
    models: Collection[str] = (),
) -> None:
    """Bring the results of a study, or of some of its seeds and variants, up to date; runs that are
    finished, here or in the archive, are not run again. `models`, names such as "cc6m-mmcl", are
    trained instead: models do not lie in git.

    The results are archived however it ends, since a study takes several sittings. Archives of
    lenders stay as they are: they are other stages' outputs, and their cleaning was of the models
    that they had.
    """
    study = load_study(name)
    path = SPECS / "studies" / f"{name}.yaml"
    chosen = chosen_models(study, seeds, variants)
    if models:
        with unedited(path):
            train_models(name, study, chosen, models)
        return
    lent_inside = {(study.variants[label].models, seed) for label, seed in chosen}

    with unedited(path):
        for run in lacking(study, _archived(name)):
            if problems := problems_of_training(run.defence):
                raise problem_list(path, problems, {})
        own = _part(name, study, study.datasets, chosen, lent_inside)
        swept = {run.schedule.learning_rate for run in own.whole if run.stage == "clean"}
        if unknown := sorted({*study.learning_rates} - swept):
            sweep = f"those of clean.cells in specs/{study.profile}.yaml"
            raise SpecError(f"{path}: learning_rates: {unknown} (allowed: {sweep})")
        lent = [
            _part(
                lender,
                load_study(lender).model_copy(update={"stages": ["pretrain"]}),
                study.datasets,
                borrowed,
            )
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
            # A failed run says nothing, and the next call makes it again.
            runs = [
                (of, rows)
                for _, of, rows in results
                if of.spec.variant in study.variants and of.status != "failed"
            ]
            write_archive(archive_of(name), runs)
    print(
        f"{archive_of(name)}: {len(runs)} runs; "
        f"`python -m repro report --profile {study.profile}` shows what came of them"
    )


def train_models(
    name: str, study: Study, chosen: Collection[Model], names: Collection[str]
) -> None:
    """Train the models of some names unless they are there, and tell whether they are the archived
    ones. Archive and results of the study stay as they are. SpecError for a name without a model.
    """
    profiles = study_profiles(study)
    # Of all seeds: what is none of these is removed.
    whole = own_trainings(study, profiles)
    due = trainings_of(study, chosen, names)
    run_all(due, study_inputs(study, profiles), results=TRAINED / name, kept=whole)
    archived = {
        (of.spec.model_name, of.spec.run_id): of.files.get(WEIGHTS[0]) for of in _archived(name)
    }
    for run in due:
        file = model_dir(run) / WEIGHTS[0]
        known = archived.get((run.model_name, run.run_id))
        same = "the archived weights" if file_sha256(file) == known else "not the archived weights"
        print(f"{file}: {same if known else 'in no archive'}")


class StudyPart(NamedTuple):
    """Runs of a study that are due now: its own, or those that another study borrows."""

    runs: list[RunSpec]
    whole: list[RunSpec]
    """All runs of the study at their stages, pre-trainings first."""
    inputs: InputsOf
    delivered: Path
    """Folder of the results, below `work/studies`."""

    def of(self, stage: Stage) -> list[RunSpec]:
        """The due runs of a stage."""
        return [spec for spec in self.runs if spec.stage == stage]

    def folder(self, spec: RunSpec) -> Path:
        """Where the results of a run are delivered."""
        return results_dir(spec, self.delivered) / spec.run_id


def _part(
    name: str,
    study: Study,
    datasets: Collection[Dataset],
    models: Collection[Model],
    lent: Collection[tuple[str | None, int]] = (),
) -> StudyPart:
    """The runs of some models of a study, and the pre-training of those that it lends them; its
    archived results are laid out as delivered ones.
    """
    profiles = study_profiles(study)
    whole = study_runs(study, profiles)
    runs = [
        run
        for run in whole
        if run.dataset in datasets
        and (run.variant, run.seed) in (models if run.stage == "clean" else {*models, *lent})
    ]
    part = StudyPart(runs, whole, study_inputs(study, profiles), WORK / "studies" / name)
    if archive_of(name).exists():
        for record, rows in read_archive(archive_of(name)):
            unpack_run(record, rows, part.folder(record.spec))
    return part


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
    for spec in own.of("clean"):
        inputs = own.inputs(spec)
        model = inputs.pop("model")
        hashes = {name: input_hash(path, spec) for name, path in inputs.items()}
        record = own.folder(spec) / RECORD
        archived = read_record(record).inputs.get("model", "") if record.exists() else ""
        hashes["model"] = starts.get(model) or archived
        run = Run(spec, fingerprint_of(spec, hashes), {}, "")

        finished = model in starts and is_delivered(run, own.delivered)
        if finished:
            # All of its cleaning has to be of one model.
            starts[model] = hashes["model"]
        if model.exists() or not finished:
            needed.add(model)
    return needed


def _archived_models(part: StudyPart) -> dict[Path, str]:
    """Folders and hashes of the models whose pre-training is archived as it would be made today."""
    return {
        model_dir(spec): read_record(part.folder(spec) / RECORD).model_hash
        for spec in part.of("pretrain")
        if is_delivered(identify(spec, part.inputs(spec), ""), part.delivered, models=False)
    }


def _run_part(part: StudyPart, models: set[Path]) -> None:
    """Run a part of a study; of its models, those that are needed are there afterwards."""
    for stage in dict.fromkeys(spec.stage for spec in part.whole):
        due = part.of(stage)
        if stage == "clean":
            due = [spec for spec in due if part.inputs(spec)["model"] in models]
        run_all(due, part.inputs, results=part.delivered, kept=part.whole, models=models)


def study_inputs(study: Study, profiles: Profiles) -> InputsOf:
    """Where the inputs of a run of the study lie; data that are not there are made."""

    @cache
    def folders(label: str, stage: Stage) -> tuple[Path, Path]:
        return variant_folders(study, profiles[label, stage])

    def inputs(spec: RunSpec) -> dict[str, Path]:
        # A variant without models of its own cleans those that it borrows.
        lent = study.variants[spec.variant].models or spec.variant
        owner = spec.model_copy(update={"variant": lent})
        return standard_inputs(owner, *folders(spec.variant, spec.stage))

    return inputs


def variant_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant's profile, made where they are not there
    yet; SpecError for those that were made from other settings.
    """
    # A folder of its own, named by its content, only where the variant changes its content.
    base = load_profile(study.profile)
    data, poisoned = (
        root / (base.name if key(profile) == key(base) else f"studies/{key(profile)}")
        for root, key in ((DATA, data_key), (POISONED, poison_key))
    )
    if not data.exists():
        make_data(profile, data)
    for dataset in study.datasets:
        if not (poisoned / dataset).exists():
            make_poison(profile, dataset, data, poisoned / dataset)
    check_stores(profile, data, poisoned, study.datasets)
    return data, poisoned
