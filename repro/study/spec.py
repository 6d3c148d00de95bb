"""specs/studies: which ways of varying a profile a study has, whose models they clean, and which
training runs that makes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import date
from fnmatch import filter as filter_names
from fnmatch import fnmatchcase
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, PrivateAttr, model_validator

from repro.consistency import problem_list, problems_of_cleaning, problems_of_use
from repro.ledger import RunRecord
from repro.profile import (
    SPECS,
    check,
    clean_runs,
    load_profile,
    merge,
    nearest,
    pretrain_runs,
    read_yaml,
)
from repro.runs.layout import RESULTS
from repro.spec import (
    CleanSize,
    Dataset,
    Loss,
    Name,
    NonEmpty,
    Objective,
    Profile,
    Rate,
    RunSpec,
    Spec,
    SpecError,
    Stage,
    digest,
)

Model = tuple[str, int]
"""Variant and seed."""
Profiles = dict[tuple[str, Stage], Profile]
"""What is run, by variant and stage."""


class Variant(Spec):
    """One way to change the profile; the study's `defaults` give what a variant leaves out."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted path (`data.poison.trigger.patch_size`) to value, laid over those of `defaults`."""
    models: Name | None = None
    """Variant whose pre-trained models are cleaned; null: the variant has its own."""
    poisoned: bool = True
    """False trains on the unpoisoned pairs: the control."""
    pretrain_objectives: NonEmpty[Objective]
    seeds: NonEmpty[int]
    why: str
    """What the variant is there to show."""


class Axis(Spec):
    """A number in which variants of a study differ, and what they are drawn over."""

    name: str
    """In words, with the unit: "Epochs of pre-training"."""
    numbers: Annotated[dict[Name, Annotated[FiniteFloat, Field(ge=0)]], Field(min_length=3)]
    """Variant to number, the reference among them."""


class Hypothesis(Spec):
    """An expectation, written down before the first run; docs/method.md says how it is judged."""

    family: str
    """Hypotheses of a family are corrected for each other."""
    says: str
    measure: Literal[
        "asr_left_at_rate",
        "asr_left_logit",
        "asr_frontier",
        "rate_doublings",
        "lost_at_cap",
        "start_accuracy",
    ]
    rate: Rate | None = None
    """Learning rate of `asr_left_at_rate`; null for that of the rules."""
    setting: Annotated[tuple[Dataset, CleanSize], Field(strict=False)] | None = None
    """Dataset and number of cleaning pairs; null where the study has one of each."""
    contrast: Annotated[dict[str, FiniteFloat], Field(min_length=2)]
    """`<variant>/<pre-training objective>` to the weight of its measure in the sum;
    `<study>/<variant>/<pre-training objective>` for one of another study. `draw_*` stands for all
    variants whose names begin so, which then have seeds of their own.
    """
    expect: Literal["above", "below"]
    """Side of zero on which the sum is expected."""
    negligible: Annotated[FiniteFloat, Field(gt=0)]
    """Smallest difference that counts, for refutation."""

    @model_validator(mode="after")
    def _rate_belongs_to_its_measure(self) -> Self:
        if self.rate is not None and self.measure != "asr_left_at_rate":
            raise ValueError(
                f"rate: {self.rate} (allowed: none, for {self.measure} is over all rates)"
            )
        return self


class Study(Spec):
    """specs/studies/<name>.yaml, with `defaults` filled in."""

    _file: str = PrivateAttr("")
    """The path of the file, for messages."""
    question: str
    predicted: str = ""
    """What was expected of it, written before its first run."""
    profile: Name
    stages: NonEmpty[Stage]
    datasets: NonEmpty[Dataset]
    clean_sizes: list[CleanSize]
    losses: list[Loss]
    """The part of the profile's cleaning sweep that is made; empty without cleaning."""
    learning_rates: list[Rate] = Field(default_factory=list)
    """Of the sweep's, those that the study cleans with; all where none is given."""
    reference: Name
    """The variant that the effects of the others are measured against."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    axes: list[Axis] = Field(default_factory=list)
    """What the report draws results over."""
    hypotheses: list[Hypothesis] = Field(default_factory=list)
    fixed: Annotated[date, Field(strict=False)] | None = None
    """When the hypotheses were written down, before the first run; needed where there are any."""

    @model_validator(mode="after")
    def _hypotheses_can_be_judged(self) -> Self:
        if self.hypotheses and self.fixed is None:
            raise ValueError(
                "fixed: missing (allowed: the day on which the hypotheses were written down)"
            )
        places = list(product(self.datasets, self.clean_sizes))
        for hypothesis in self.hypotheses:
            where = f"hypotheses: {hypothesis.says}"
            place = hypothesis.setting
            if place not in places and (place or len(places) > 1):
                allowed = ", ".join("[" + ", ".join(each) + "]" for each in places)
                raise ValueError(f"{where}: setting: {place} (allowed: {allowed})")
            for label in hypothesis.contrast:
                seeds = [
                    seed for name in self.matching(label) for seed in self.variants[name].seeds
                ]
                if len(set(seeds)) < len(seeds):
                    raise ValueError(
                        f"{where}: contrast: {label!r} (allowed: variants without a common seed)"
                    )
        return self

    def matching(self, label: str) -> list[str]:
        """The variants of this study that a label of a contrast stands for."""
        return [name for name in self.variants if fnmatchcase(name, label.split("/")[0])]

    @model_validator(mode="after")
    def _names_are_variants(self) -> Self:
        allowed = f"(allowed: {', '.join(self.variants)})"
        if self.reference not in self.variants:
            raise ValueError(f"reference: {self.reference!r} {allowed}")

        for axis in self.axes:
            for name in axis.numbers:
                if name not in self.variants:
                    raise ValueError(f"axes: {axis.name}: {name!r} {allowed}")

        models = {f"{v}/{o}" for v, of in self.variants.items() for o in of.pretrain_objectives}
        for hypothesis in self.hypotheses:
            for name in hypothesis.contrast:
                if name.count("/") < 2 and not filter_names(models, name):
                    raise ValueError(
                        f"hypotheses: {hypothesis.says}: contrast: {name!r} "
                        f"(allowed: {', '.join(sorted(models))})"
                    )
        return self


class StudyFile(Spec, extra="allow"):
    """specs/studies/<name>.yaml as it is written, as far as `defaults` fill in `variants`."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    """Fields of `Variant` that hold for all variants."""
    variants: dict[str, dict[str, Any]]


def load_study(name: str) -> Study:
    """Read and check a study; SpecError names every problem."""
    path = SPECS / "studies" / f"{name}.yaml"
    if name not in (names := study_names()):
        listed = "`python -m repro study --list` has all of them"
        raise SpecError(f"{path}: no such study ({listed}{nearest(name, names)})")
    written = check(StudyFile, read_yaml(path), path)
    content = written.model_dump(exclude={"defaults"})
    content["variants"] = {
        label: merge(written.defaults, variant, path.as_posix(), {})
        for label, variant in written.variants.items()
    }
    study = check(Study, content, path)
    study._file = path.as_posix()
    return study


def varied(study: Study, variant: Variant) -> Profile:
    """The study's profile with the variant's overrides and seeds; SpecError if these do not fit."""
    overrides = {"pretrain.seeds": variant.seeds, **variant.overrides}
    profile = load_profile(study.profile, overrides=overrides, source=study._file)
    objectives = variant.pretrain_objectives
    sizes = study.clean_sizes
    problems = problems_of_use(profile, objectives, sizes)
    problems += problems_of_cleaning(profile, objectives, sizes)
    if problems:
        raise problem_list(study._file, problems, {})
    return profile


def archive_of(name: str) -> Path:
    """The file of the study's results, which git keeps."""
    return RESULTS / "studies" / f"{name}.jsonl.gz"


def study_names() -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in (SPECS / "studies").glob("*.yaml"))


def owner(variant: str) -> str:
    """The study that trains the models of a variant; SpecError unless exactly one does."""
    owners = [
        name
        for name in study_names()
        for label, own in load_study(name).variants.items()
        if label == variant and own.models is None
    ]
    if len(owners) != 1:
        raise SpecError(
            f"specs/studies: models of variant {variant!r} are trained by"
            f" {', '.join(owners) or 'no study'} (allowed: one study)"
        )
    return owners[0]


def lenders(study: Study, chosen: Collection[Model]) -> dict[str, set[Model]]:
    """Studies that train models which the chosen ones of this study clean, with those models."""
    lent: dict[str, set[Model]] = defaultdict(set)
    for label, variant in study.variants.items():
        if variant.models is not None:
            borrowed = {(variant.models, seed) for of, seed in chosen if of == label}
            lent[owner(variant.models)] |= borrowed
    return lent


def study_profiles(study: Study) -> Profiles:
    """The variants' profiles; a borrowed pre-training has its lender's, with their own seeds.

    SpecError where a hypothesis is about a learning rate that none of its models is cleaned with.
    """
    borrowed = {variant.models for variant in study.variants.values() if variant.models}
    lent = {name: load_study(owner(name)).variants[name] for name in borrowed}

    profiles: Profiles = {}
    for label, variant in study.variants.items():
        for stage in study.stages:
            source = variant
            if stage == "pretrain" and variant.models is not None:
                source = lent[variant.models].model_copy(update={"seeds": variant.seeds})
            profiles[label, stage] = varied(study, source)
    _check_rates(study, profiles)
    return profiles


def _check_rates(study: Study, profiles: Profiles) -> None:
    """Raise SpecError for a hypothesis about a rate that a variant of this study lacks."""
    with_rate = [hypothesis for hypothesis in study.hypotheses if hypothesis.rate]
    cleanings = study_runs(study, profiles, "clean") if with_rate else []
    for hypothesis in with_rate:
        for name in chain.from_iterable(map(study.matching, hypothesis.contrast)):
            rates = {
                run.schedule.learning_rate
                for run in cleanings
                if (run.variant, run.loss) == (name, "mmcl_ssl")
                if hypothesis.setting in (None, (run.dataset, run.clean_size))
            }
            if hypothesis.rate not in rates:
                allowed = ", ".join(map(str, sorted(rates))) or "none, for no model is cleaned so"
                raise SpecError(
                    f"{study._file}: hypotheses: {hypothesis.says}: rate: {hypothesis.rate} "
                    f"(allowed: {allowed})"
                )


def lacking(study: Study, records: Iterable[RunRecord]) -> list[RunSpec]:
    """Runs that a study asks for and that are not, or failed, among `records`."""
    done = {
        (of.spec.variant, digest(of.spec.computed())) for of in records if of.status != "failed"
    }
    return [
        run
        for run in study_runs(study, study_profiles(study))
        # A borrowed model is trained by the variant that has it.
        if run.stage == "clean" or study.variants[run.variant].models is None
        if (run.variant, digest(run.computed())) not in done
    ]


def study_runs(study: Study, profiles: Profiles, only: Stage | None = None) -> list[RunSpec]:
    """All runs of a study, pre-trainings first, or those of one stage."""
    return [
        run
        for stage in study.stages
        if only in (None, stage)
        for label in study.variants
        for run in asked_runs(study, profiles, label, stage)
    ]


def asked_runs(study: Study, profiles: Profiles, label: str, stage: Stage) -> list[RunSpec]:
    """Runs of a variant; a borrowed pre-training is the lender's under this variant's name."""
    variant = study.variants[label]
    profile = profiles[label, stage]
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


def own_trainings(study: Study, profiles: Profiles) -> list[RunSpec]:
    """The pre-trainings of a study, without those that it borrows."""
    return [
        run
        for run in study_runs(study, profiles, "pretrain")
        if study.variants[run.variant].models is None
    ]


def trainings_of(study: Study, chosen: Collection[Model], names: Collection[str]) -> list[RunSpec]:
    """The trainings of the chosen models that have one of the names; SpecError for a name that none
    has.
    """
    trained = [
        run
        for run in own_trainings(study, study_profiles(study))
        if (run.variant, run.seed) in chosen
    ]
    allowed = list(dict.fromkeys(run.model_name for run in trained))
    for name in names:
        if name not in allowed:
            raise SpecError(f"--model: {name} (allowed: {', '.join(allowed) or 'none'})")
    return [run for run in trained if run.model_name in names]


def chosen_models(study: Study, seeds: Collection[int], variants: Collection[str]) -> set[Model]:
    """The models of some seeds and variants, or all; SpecError for one that is not there."""
    models = {(label, seed) for label, variant in study.variants.items() for seed in variant.seeds}
    for option, values, allowed in (
        ("--seed", seeds, sorted({seed for _, seed in models})),
        ("--variant", variants, list(study.variants)),
    ):
        names = [str(name) for name in allowed]
        for value in values:
            if value not in allowed:
                listed = ", ".join(names) + nearest(value, names)
                raise SpecError(f"{option}: {value} (allowed by the study: {listed})")
    return {
        (label, seed)
        for label, seed in models
        if (not seeds or seed in seeds) and (not variants or label in variants)
    }
