"""Studies: a profile varied in named ways, over several seeds, with results apart from the main graph's.

`specs/studies/<name>.yaml` says what is varied; `run_study` makes the data each variant needs, runs its trainings
through the launcher, and keeps the results in `results/studies/<name>.jsonl.gz`. Variants share data, and where they say so
pre-trained models, that they do not change.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from repro.archive import read_archive, unpack_run, write_archive
from repro.launch import run_all
from repro.launch.identity import WORK, model_dir, standard_inputs
from repro.launch.publication import results_dir
from repro.ledger import Row, read_results
from repro.profile import SPECS, check, clean_runs, load_profile, pretrain_runs, read_yaml
from repro.spec import CleanSize, Dataset, Loss, Name, Objective, Profile, RunSpec, Spec, SpecError, digest

POISON_SWITCHES = {"poison_caption", "trigger_centre", "trigger_overflow", "cleaning_pairs"}
"""Switches that the poison stage depends on."""


class Variant(Spec):
    """One way to change the profile."""

    overrides: dict[str, Any]
    """Dotted path (`data.poison.trigger.patch_size`) to value; empty for the profile as it is."""
    models: Name | None
    """Variant, of this study or another, whose pre-trained models are cleaned; null: the variant has models of its own."""
    poisoned: bool
    """False trains on the unpoisoned pairs: the control."""
    pretrain_objectives: Annotated[list[Objective], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    why: str
    """What the variant is there to show."""


class Study(Spec):
    """specs/studies/<name>.yaml."""

    question: str
    profile: Name
    stages: Annotated[list[Literal["pretrain", "clean"]], Field(min_length=1)]
    datasets: Annotated[list[Dataset], Field(min_length=1)]
    clean_sizes: list[CleanSize]
    losses: list[Loss]
    """Which part of the profile's cleaning sweep the study makes; both empty where it does not clean."""
    reference: Name
    """The variant that the effects of the others are measured against."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]

    @model_validator(mode="after")
    def _reference_is_one(self) -> Self:
        if self.reference not in self.variants:
            raise ValueError(f"reference: {self.reference!r} (allowed: {', '.join(self.variants)})")
        return self


def load_study(name: str, specs: Path = SPECS) -> Study:
    """Read and check a study; SpecError names every problem."""
    path = specs / "studies" / f"{name}.yaml"
    return check(Study, read_yaml(path), path)


def varied(study: Study, variant: Variant) -> Profile:
    """The study's profile with the variant's overrides and seeds."""
    return load_profile(study.profile, overrides={"pretrain.seeds": variant.seeds, **variant.overrides})


def archive_of(name: str) -> Path:
    """The file of the study's results, which git keeps."""
    return Path("results") / "studies" / f"{name}.jsonl.gz"


def study_names(specs: Path = SPECS) -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in (specs / "studies").glob("*.yaml"))


def owner(variant: str) -> str:
    """The study that trains the models of a variant; SpecError unless exactly one does."""
    found = [name for name in study_names() if (own := load_study(name).variants.get(variant)) is not None and own.models is None]
    if len(found) != 1:
        raise SpecError(
            f"specs/studies: models of variant {variant!r} are trained by {', '.join(found) or 'no study'} (allowed: one study)"
        )
    return found[0]


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
            part = lender.model_copy(update={"stages": ["pretrain"], "datasets": study.datasets, "variants": variants})
            _run(of, part, whole=lender, models=models)
    try:
        _run(name, study, whole=study, models=models)
    finally:
        found = ((record, rows) for _, record, rows in read_results(_results_of(name)) if record.spec.variant in study.variants)
        write_archive(archive_of(name), found)


def lenders(study: Study) -> dict[str, dict[str, Variant]]:
    """Studies that train the models which this one's variants clean, and the variants they lend, with the seeds asked for."""
    found: dict[str, dict[str, Variant]] = defaultdict(dict)
    for variant in study.variants.values():
        if variant.models is not None:
            of = owner(variant.models)
            lent = found[of].get(variant.models) or load_study(of).variants[variant.models].model_copy(update={"seeds": []})
            found[of][variant.models] = lent.model_copy(update={"seeds": sorted({*lent.seeds, *variant.seeds})})
    return found


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
        found["pairs"] = poisoned / spec.dataset if spec.poisoned or spec.stage == "clean" else data / spec.dataset
        if "model" in found:
            lent = part.variants[spec.variant].models or spec.variant
            found["model"] = model_dir(spec.model_copy(update={"variant": lent}))
        return found | {"evaluation": data / "evaluation", "synonyms": data / "synonyms.json"}

    for stage in part.stages:
        due = [run for label, profile in profiles.items() for run in _runs(part, label, profile, stage)]
        every = [run for label, variant in whole.variants.items() for run in _runs(whole, label, varied(whole, variant), stage)]
        run_all(due, inputs, results=published, kept=every, models=models)


def _runs(study: Study, label: str, profile: Profile, stage: Literal["pretrain", "clean"]) -> list[RunSpec]:
    """Runs of a stage of one variant; a borrowed pre-training is the lender's run under this variant's name."""
    variant = study.variants[label]
    expand = pretrain_runs if stage == "pretrain" else clean_runs
    return [
        run
        for run in expand(profile, variant=label, poisoned=variant.poisoned)
        if run.dataset in study.datasets
        and run.pretrain_objective in variant.pretrain_objectives
        and (stage == "pretrain" or (run.clean_size in study.clean_sizes and run.loss in study.losses))
    ]


def _results_of(name: str) -> Path:
    return WORK / "studies" / name


def _data_folders(study: Study, profile: Profile) -> tuple[Path, Path]:
    """Folders of data and poisoned pairs for a variant, made if they are not the profile's own and not there yet."""
    from repro.data.stages import DATA, POISONED, make_data, make_poison  # the renderer is not needed to read a study

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
        [content, profile.data.poison.target_class, profile.evaluate.model_dump(mode="json", include={"classnames", "templates"})]
    )


def _poison_key(profile: Profile) -> str:
    switches = profile.switches.model_dump(mode="json", include=POISON_SWITCHES)
    return digest([_data_key(profile), profile.data.model_dump(mode="json"), switches])


def table(name: str) -> str:
    """The study's outcome as Markdown: for each variant and model, accuracy and ASR at the end of pre-training, by seed."""
    study = load_study(name)
    ends: dict[tuple[str, str], dict[int, tuple[Row, float]]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        if record.spec.stage == "pretrain" and rows:
            ends[record.spec.variant, record.spec.cell][record.spec.seed] = rows[-1], record.train_seconds
    lines = [
        "| variant | changed | model | seeds | zero-shot top-1 % | ASR % | lowest ASR % | seconds | why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, variant in study.variants.items():
        changed = ", ".join(f"`{path}: {value}`" for path, value in variant.overrides.items()) or ("-" if variant.poisoned else "no poison")
        for (of, cell), runs in sorted(ends.items()):
            if of != label:
                continue
            rows = [runs[seed][0] for seed in sorted(runs)]
            rates = [row.asr("non_target") for row in rows]
            accuracy, attack = (" / ".join(f"{100 * value:.1f}" for value in values) for values in ([row.accuracy for row in rows], rates))
            seconds = statistics.mean(runs[seed][1] for seed in runs)
            seeds = ", ".join(map(str, sorted(runs)))
            cells = [label, changed, cell, seeds, accuracy, attack, f"{100 * min(rates):.1f}", f"{seconds:.0f}", variant.why]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
