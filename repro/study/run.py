"""Studies: a profile varied in named ways, over several seeds, with results apart from the main
graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data that each variant needs,
runs its trainings through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`.
Variants share data, and where they say so pre-trained models, that they do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repro.data.stages import data_key, make_poison, poison_key
from repro.launch.driver import run_all
from repro.ledger import LedgerError
from repro.markdown import fill
from repro.profile import SPECS, load_profile
from repro.runs.deliver import is_delivered
from repro.runs.inputs import check_stores, input_hash
from repro.runs.layout import DATA, POISONED, WORK, model_dir, results_dir, standard_inputs
from repro.runs.published import RECORD, read_record, read_results
from repro.runs.run import Run, fingerprint_of, identify
from repro.sources.stage import make_data
from repro.spec import Profile, RunSpec, SpecError
from repro.study.archive import archive_problem, read_archive, unpack_run, write_archive
from repro.study.asked import Profiles, asked_runs, study_profiles
from repro.study.spec import (
    Stage,
    Study,
    archive_of,
    lenders,
    load_study,
    varied,
)
from repro.study.table import outcome_table
from repro.unchanged import DIGITS, unchanged


def study_command(name: str, table: Path | None, seeds: list[int] | None = None) -> None:
    """Bring the study up to date, or its part of some seeds, and print its table.

    With `table` nothing is run: the archive's results are written into that Markdown file.
    LedgerError if dvc.lock or git knows another archive.
    """
    if table is None:
        run_study(name, seeds)
    elif problem := archive_problem(name):
        raise LedgerError(problem)

    content = outcome_table(name)
    print(content)
    if table is not None:
        fill(table, name, content)


def run_study(name: str, seeds: list[int] | None = None) -> None:
    """Bring the results of a study, or of some of its seeds, up to date; finished runs, here or in
    the archive, are not run again.

    The results are archived however it ends, since a study takes several sittings. Archives of
    lenders stay as they are: they are other stages' outputs, and their cleaning was of the models
    that they had.
    """
    study = load_study(name)
    _check_rates(name, study)
    with unchanged(study.profile, Profile.model_dump, DIGITS, [SPECS / "studies" / f"{name}.yaml"]):
        _run_parts(name, study, seeds)


def _run_parts(name: str, study: Study, seeds: list[int] | None) -> None:
    # Models that other studies train come first.
    part = study if seeds is None else _of_seeds(name, study, seeds)
    lent = []
    for lender, variants in lenders(part).items():
        if lender != name:
            whole = load_study(lender)
            update = {"stages": ["pretrain"], "datasets": part.datasets, "variants": variants}
            lent.append(_part(lender, whole.model_copy(update=update), whole))
    own = _part(name, part, whole=study)
    models = _models_needed(own, lent)

    for lent_part in lent:
        _run_part(lent_part, models)
    try:
        _run_part(own, models)
    finally:
        runs = ((record, rows) for _, record, rows in read_results(own.delivered))
        write_archive(
            archive_of(name), (run for run in runs if run[0].spec.variant in study.variants)
        )


def _of_seeds(name: str, study: Study, seeds: list[int]) -> Study:
    """The study on some of its seeds; SpecError for a seed that no variant has."""
    known = {seed for variant in study.variants.values() for seed in variant.seeds}
    for seed in seeds:
        if seed not in known:
            raise SpecError(
                f"--seeds: {seed} (allowed by specs/studies/{name}.yaml: "
                f"{', '.join(map(str, sorted(known)))})"
            )
    variants = {
        label: variant.model_copy(update={"seeds": kept})
        for label, variant in study.variants.items()
        if (kept := [seed for seed in variant.seeds if seed in seeds])
    }
    return study.model_copy(update={"variants": variants})


def _check_rates(name: str, study: Study) -> None:
    """SpecError for a learning rate that the sweep of a variant does not have."""
    for label, variant in study.variants.items():
        cells = varied(study, variant).clean.cells
        known = {rate for cell in cells for rate in cell.learning_rates}
        for rate in study.learning_rates:
            if rate not in known:
                raise SpecError(
                    f"specs/studies/{name}.yaml: learning_rates: {rate:g} for variant {label!r} "
                    f"(allowed: {', '.join(f'{allowed:g}' for allowed in sorted(known))})"
                )


@dataclass(frozen=True)
class StudyPart:
    """Runs of a study: all of them, or those that another study borrows."""

    study: Study
    whole: Study
    profiles: Profiles
    inputs: Callable[[RunSpec], dict[str, Path]]
    delivered: Path
    """Folder of the results, below `work/studies`."""

    def runs(self, stage: Stage) -> list[RunSpec]:
        """Those of a stage, over all variants; none of a stage that the part does not have."""
        if stage not in self.study.stages:
            return []
        labels = self.study.variants
        return [r for label in labels for r in asked_runs(self.study, self.profiles, label, stage)]


def _part(name: str, part: Study, whole: Study) -> StudyPart:
    """The runs of `part`; archived results of the study are laid out as delivered ones."""
    delivered = WORK / "studies" / name
    if archive_of(name).exists():
        for record, rows in read_archive(archive_of(name)):
            unpack_run(record, rows, results_dir(record.spec, delivered) / record.spec.run_id)
    profiles = study_profiles(part)
    return StudyPart(part, whole, profiles, _inputs(part, profiles), delivered)


def _models_needed(own: StudyPart, lent: list[StudyPart]) -> set[Path]:
    """Folders of the models that a cleaning run which is still due starts from.

    Models do not lie in git, rows do: a model whose cleaning runs are all archived is not trained
    again to be cleaned by none.
    """
    if "clean" not in own.study.stages:
        return set()
    # Where two archives of different machines met, the study has cleaned the lender's training, but
    # not the very model in the lender's archive: of a lent one any hash will do.
    starts: dict[Path, str | None] = {
        folder: None for part in lent for folder in _archived_models(part)
    }
    starts |= _archived_models(own)

    needed = set()
    for spec in own.runs("clean"):
        inputs = own.inputs(spec)
        folder = inputs.pop("model")
        hashes = {name: input_hash(path, spec) for name, path in inputs.items()}
        path = results_dir(spec, own.delivered) / spec.run_id / RECORD
        archived = read_record(path).inputs.get("model", "") if path.exists() else ""
        hashes["model"] = starts.get(folder) or archived
        run = Run(spec, fingerprint_of(spec, hashes), {}, "")

        known = folder in starts and is_delivered(run, own.delivered)
        if known and starts[folder] is None:
            # All of its cleaning has to be of one model.
            starts[folder] = hashes["model"]
        if folder.exists() or not known:
            needed.add(folder)
    return needed


def _archived_models(part: StudyPart) -> dict[Path, str]:
    """Folders and hashes of the models whose pre-training is archived as it would be made today."""
    models = {}
    for spec in part.runs("pretrain"):
        run = identify(spec, part.inputs(spec), "")
        if is_delivered(run, part.delivered, models=False):
            record = read_record(results_dir(spec, part.delivered) / spec.run_id / RECORD)
            models[model_dir(spec)] = record.model_hash
    return models


def _run_part(part: StudyPart, models: set[Path]) -> None:
    """Run a part of the study; of its models, those that are needed are there afterwards."""
    profiles = study_profiles(part.whole)
    for stage in part.study.stages:
        due = part.runs(stage)
        if stage == "clean":
            due = [spec for spec in due if part.inputs(spec)["model"] in models]

        # Of the whole study, also where only a part of it is due now.
        labels = part.whole.variants
        kept = [r for label in labels for r in asked_runs(part.whole, profiles, label, stage)]
        run_all(due, part.inputs, results=part.delivered, kept=kept, models=models)


def _inputs(part: Study, profiles: Profiles) -> Callable[[RunSpec], dict[str, Path]]:
    """Where the inputs of a run of the study lie; data that are not there are made."""
    folders = {key: variant_folders(part, profile) for key, profile in profiles.items()}

    def inputs(spec: RunSpec) -> dict[str, Path]:
        data, poisoned = folders[spec.variant, spec.stage]
        paths = standard_inputs(spec)
        paths |= {"evaluation": data / "evaluation", "synonyms": data / "synonyms.json"}

        # The control is pre-trained on unpoisoned pairs; the cleaning sets lie in the poisoned
        # store.
        from_poisoned = spec.poisoned or spec.stage == "clean"
        paths["pairs"] = (poisoned if from_poisoned else data) / spec.dataset

        # A variant without models of its own cleans those that it borrows.
        if "model" in paths:
            lent = part.variants[spec.variant].models or spec.variant
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
