"""Studies: a profile varied in named ways, over several seeds, with results apart from the main
graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data that each variant needs,
runs its trainings through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`.
Variants share data, and where they say so pre-trained models, that they do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.shards import PairStore
from repro.data.stages import DATA
from repro.evaluate.split import validation_mask
from repro.launch.driver import run_all
from repro.ledger import Row
from repro.markdown import fill
from repro.runs.code import code_version
from repro.runs.deliver import is_delivered
from repro.runs.layout import WORK, content_hash, model_dir, results_dir, standard_inputs
from repro.runs.published import BITS, RECORD, read_bits, read_record, read_results
from repro.runs.run import Run, fingerprint_of, identify
from repro.spec import RunSpec, SpecError
from repro.study.archive import (
    ValidationCounts,
    read_archive,
    read_validation,
    unpack_run,
    write_archive,
)
from repro.study.asked import Profiles, asked_runs, study_profiles
from repro.study.spec import (
    Stage,
    Study,
    Variant,
    archive_of,
    lenders,
    load_study,
    varied,
)
from repro.study.table import outcome_table
from repro.study.variant_data import variant_folders


def study_command(name: str, table: Path | None, seeds: list[int] | None = None) -> None:
    """Bring the study up to date, or its part of some seeds, and print its table. With `table`
    nothing is run: what the archive holds is written into that Markdown file.
    """
    if table is None:
        run_study(name, seeds)

    content = outcome_table(name)
    print(content)
    if table is not None:
        fill(table, name, content)


def run_study(name: str, seeds: list[int] | None = None) -> None:
    """Bring the results of a study, or of some of its seeds, up to date; what is finished, here or
    in the archive, is not run again.

    They are archived however it ends, since a study takes several sittings. Archives of lenders
    stay as they are: they are other stages' outputs, and their cleaning was of the models that they
    had.
    """
    study = load_study(name)
    _check_rates(name, study)

    # Models that other studies train come first.
    asked = study if seeds is None else _of_seeds(name, study, seeds)
    lent = [
        _lent_part(of, asked, variants) for of, variants in lenders(asked).items() if of != name
    ]
    own = _part(name, asked, whole=study)
    models = _models_wanted(own, lent)

    for part in lent:
        _run_part(part, models)
    try:
        _run_part(own, models)
    finally:
        _archive_results(name, study)


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
                    f"(allowed: {', '.join(f'{of:g}' for of in sorted(known))})"
                )


@dataclass(frozen=True)
class StudyPart:
    """Runs of a study that are asked for; all it has, or what another study borrows."""

    name: str
    study: Study
    whole: Study
    profiles: Profiles
    inputs: Callable[[RunSpec], dict[str, Path]]
    delivered: Path
    """Folder of the results, below `work/studies`."""

    def runs(self, stage: Stage) -> list[RunSpec]:
        """Those of a stage, over all variants; none of a stage that is not asked for."""
        if stage not in self.study.stages:
            return []
        return [
            run
            for label in self.study.variants
            for run in asked_runs(self.study, self.profiles, label, stage)
        ]


def _lent_part(name: str, borrower: Study, variants: dict[str, Variant]) -> StudyPart:
    """The pre-trainings of study `name` whose models another one cleans."""
    lender = load_study(name)
    asked = {"stages": ["pretrain"], "datasets": borrower.datasets, "variants": variants}
    return _part(name, lender.model_copy(update=asked), whole=lender)


def _part(name: str, asked: Study, whole: Study) -> StudyPart:
    """The runs of `asked`, with what the archive of the study holds laid out as delivered."""
    delivered = _results_of(name)
    _unpack_archive(name, delivered)
    profiles = study_profiles(asked)
    return StudyPart(name, asked, whole, profiles, _inputs(asked, profiles), delivered)


def _models_wanted(own: StudyPart, lent: list[StudyPart]) -> set[Path]:
    """Folders of the models that a cleaning run which is still due starts from.

    Models do not lie in git, rows do: a model whose cleaning runs are all archived is not trained
    again to be cleaned by none.
    """
    if "clean" not in own.study.stages:
        return set()

    # Where two archives of different machines met, the study has cleaned the lender's training, but
    # not the very model that the lender's archive tells of: of a lent one any hash will do.
    code = code_version()
    starts: dict[Path, str | None] = {
        folder: None for part in lent for folder in _known_models(part, code)
    }
    starts |= _known_models(own, code)

    wanted = set()
    for spec in own.runs("clean"):
        inputs = own.inputs(spec)
        folder = inputs.pop("model")
        hashes = {name: content_hash(path) for name, path in inputs.items()}
        hashes["model"] = starts.get(folder) or _archived_start(spec, own.delivered)
        run = Run(spec, fingerprint_of(spec, hashes, code), {}, code)

        known = folder in starts and is_delivered(run, own.delivered)
        if known and starts[folder] is None:
            # All of its cleaning has to be of one model.
            starts[folder] = hashes["model"]
        if folder.exists() or not known:
            wanted.add(folder)
    return wanted


def _known_models(part: StudyPart, code: str) -> dict[Path, str]:
    """Folders and hashes of the models whose pre-training is archived as it would be made today."""
    found = {}
    for spec in part.runs("pretrain"):
        run = identify(spec, part.inputs(spec), code, part.delivered)
        if is_delivered(run, part.delivered, models=False):
            record = read_record(results_dir(spec, part.delivered) / spec.run_id / RECORD)
            found[model_dir(spec)] = record.model_hash
    return found


def _archived_start(spec: RunSpec, delivered: Path) -> str:
    """Hash of the model that an archived cleaning run started from; empty where there is none."""
    path = results_dir(spec, delivered) / spec.run_id / RECORD
    return read_record(path).inputs.get("model", "") if path.exists() else ""


def _run_part(part: StudyPart, models: set[Path]) -> None:
    """Run a part of the study; of its models, those that are wanted are there afterwards."""
    known = study_profiles(part.whole)
    for stage in part.study.stages:
        due = part.runs(stage)
        if stage == "clean":
            due = [spec for spec in due if part.inputs(spec)["model"] in models]

        # Of the whole study, also where only a part of it is due now.
        kept = [
            run
            for label in part.whole.variants
            for run in asked_runs(part.whole, known, label, stage)
        ]
        run_all(due, part.inputs, results=part.delivered, kept=kept, models=models)


def _inputs(part: Study, profiles: Profiles) -> Callable[[RunSpec], dict[str, Path]]:
    """Where the inputs of a run of the study lie; data that are not there are made."""
    folders = {key: variant_folders(part, profile) for key, profile in profiles.items()}

    def inputs(spec: RunSpec) -> dict[str, Path]:
        data, poisoned = folders[spec.variant, spec.stage]
        found = standard_inputs(spec)
        found |= {"evaluation": data / "evaluation", "synonyms": data / "synonyms.json"}

        # The control is pre-trained on unpoisoned pairs; the cleaning sets lie in the poisoned
        # store.
        from_poisoned = spec.poisoned or spec.stage == "clean"
        found["pairs"] = (poisoned if from_poisoned else data) / spec.dataset

        # A variant without models of its own cleans those that it borrows.
        if "model" in found:
            lent = part.variants[spec.variant].models or spec.variant
            found["model"] = model_dir(spec.model_copy(update={"variant": lent}))
        return found

    return inputs


def _unpack_archive(name: str, delivered: Path) -> None:
    """Lay archived runs where the launcher looks for delivered ones."""
    if not archive_of(name).exists():
        return
    for record, rows in read_archive(archive_of(name)):
        unpack_run(record, rows, results_dir(record.spec, delivered) / record.spec.run_id)


def _archive_results(name: str, study: Study) -> None:
    """Write what has been delivered into the file that git keeps."""
    path, delivered = archive_of(name), _results_of(name)
    validation = read_validation(path) if path.exists() else {}
    images = (DATA / study.profile / "evaluation").exists()
    found = []
    for folder, record, rows in read_results(delivered):
        if record.spec.variant not in study.variants:
            continue
        found.append((record, rows))
        if images and record.fingerprint not in validation and (folder / BITS).exists():
            validation[record.fingerprint] = _validation_counts(study, folder, rows)
    write_archive(path, found, validation)


def _validation_counts(study: Study, folder: Path, rows: list[Row]) -> ValidationCounts:
    """Counts of a published run over the validation images, from its bits."""
    bits, mask = read_bits(folder, rows[0].num_images), _validation_mask(study.profile)
    correct, attacked = bits["correct"][:, mask], bits["attacked"][:, mask]
    target = bits["is_target"][mask]
    return ValidationCounts(
        num_images=int(mask.sum()),
        num_target=int(target.sum()),
        num_correct=correct.sum(1).tolist(),
        num_attacked=attacked.sum(1).tolist(),
        num_target_attacked=(attacked & target).sum(1).tolist(),
    )


@lru_cache(maxsize=1)
def _validation_mask(profile: str) -> NDArray[np.bool_]:
    """Of the profile's evaluation images; a study's variants share them."""
    index = PairStore.open(DATA / profile / "evaluation").index
    return validation_mask([key.tobytes() for key in index.keys], index.labels)


def _results_of(name: str) -> Path:
    return WORK / "studies" / name
