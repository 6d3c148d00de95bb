"""Models by their specification: the profile's own and those that studies trained, in models/, and
those of a release.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.data.stages import data_key, poison_key
from repro.files import file_sha256
from repro.ledger import CLEANED, LedgerError, Row, RunRecord
from repro.profile import load_profile
from repro.runs.again import best_cleaned
from repro.runs.layout import RESULTS, WEIGHTS, WORK, cleaned_file, model_dir, results_dir
from repro.runs.published import RECORD, read_record, read_run
from repro.spec import RunSpec
from repro.study.spec import load_study, study_names, study_profiles, study_runs

SUMS = "SHA256SUMS"
"""Hashes of all files of a release, as `sha256sum --check` reads them."""
TRAINED = WORK / "models"
"""Results of models that `study --model` trains: those of the study stay as they are."""


def runs_of_studies(spec: RunSpec) -> Iterator[tuple[str, RunSpec]]:
    """The runs of studies that train the same on the same pairs, with the names of the studies."""
    base = load_profile(spec.profile)
    for name in study_names():
        study = load_study(name)
        if study.profile != spec.profile or spec.stage not in study.stages:
            continue
        profiles = study_profiles(study)
        for run in study_runs(study, profiles, spec.stage):
            borrowed = study.variants[run.variant].models is not None
            if borrowed or run.model_name != spec.model_name or run.computed() != spec.computed():
                continue
            pairs = profiles[run.variant, spec.stage]
            if data_key(pairs) == data_key(base) and poison_key(pairs) == poison_key(base):
                yield name, run


def poisoned_model(spec: RunSpec) -> tuple[Path, RunRecord] | None:
    """File and record of the model of a pre-training; None if it is not in models/.

    LedgerError for weights that are not those of the record beside them.
    """
    for run in (spec, *(run for _, run in runs_of_studies(spec))):
        path = model_dir(run) / WEIGHTS[0]
        if path.is_file():
            record = read_record(path.with_name(RECORD))
            if file_sha256(path) != record.files.get(path.name):
                raise LedgerError(
                    f"{path}: not the weights that its run in results/ left; remove the file, and "
                    f"{command_for(spec)} makes it again"
                )
            return path, record
    return None


def evaluation_of(spec: RunSpec) -> Row:
    """The evaluation of the model that a pre-training handed on; LedgerError if there is none."""
    studies = [
        results_dir(run, root) / run.run_id
        for name, run in runs_of_studies(spec)
        for root in (TRAINED / name, WORK / "studies" / name)
    ]
    for folder in (results_dir(spec, RESULTS) / spec.run_id, *studies):
        if folder.is_dir():
            record, rows = read_run(folder)
            return [row for row in rows if row.step <= record.model_step][-1]
    raise LedgerError(f"{spec.model_name}, seed {spec.seed}: has a model, but no result of its run")


def cleaned_model(runs: Sequence[RunSpec]) -> tuple[Path, RunRecord] | None:
    """File and record of the best cleaned model of the runs of a setting; None if it is not in
    models/.

    LedgerError for weights that are not those of the best run.
    """
    path = cleaned_file(runs[0])
    if not path.is_file():
        return None
    best = best_cleaned(runs, RESULTS)
    if best is None or file_sha256(path) != best.record.files.get(CLEANED):
        stage = f"clean@{runs[0].profile}-{runs[0].model_name}"
        raise LedgerError(
            f"{path}: not the weights that the best run in results/ left; remove the file and call "
            f"`dvc repro --force --single-item {stage}`"
        )
    return path, best.record


def released_model(folder: Path, spec: RunSpec) -> Path:
    """File of a model in an unpacked release; LedgerError if it is not there, or not the file whose
    hash the release lists.
    """
    name = f"models/{released_name(spec)}"
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{folder / SUMS}: {getattr(error, 'strerror', error)}") from None
    sums = {name: known for known, _, name in (line.partition("  ") for line in lines)}
    if name not in sums:
        there = ", ".join(listed for listed in sums if listed.endswith(".safetensors"))
        raise LedgerError(f"{folder / SUMS}: no {name} (there: {there or 'no model'})")
    path = folder / name
    found = file_sha256(path) if path.is_file() else "missing"
    if found != sums[name]:
        raise LedgerError(f"{path}: SHA-256 {found} (by {SUMS}: {sums[name]})")
    return path


def released_name(spec: RunSpec) -> str:
    """Name of a model's file in a release."""
    kind = f"cleaned-{spec.clean_size}" if spec.clean_size else "poisoned"
    return f"{spec.model_name}-seed{spec.seed}-{kind}.safetensors"


def command_for(spec: RunSpec) -> str:
    """The command that makes a model, in backticks."""
    if spec.stage == "pretrain":
        for name, run in runs_of_studies(spec):
            return (
                f"`python -m repro study {name} --seed {run.seed} --variant {run.variant} "
                f"--model {run.model_name}`"
            )
    return f"`make reproduce PROFILE={spec.profile}`"
