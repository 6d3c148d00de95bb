"""specs/studies: which ways of varying a profile a study has, and whose models they clean."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, PrivateAttr, model_validator

from repro.profile import SPECS, check, load_profile, read_yaml
from repro.runs.layout import RESULTS
from repro.spec import (
    CleanSize,
    Dataset,
    Loss,
    Name,
    Objective,
    Profile,
    Rate,
    Spec,
    SpecError,
)

Stage = Literal["pretrain", "clean"]


class Variant(Spec):
    """One way to change the profile; the study's `defaults` give what a variant leaves out."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted path (`data.poison.trigger.patch_size`) to value, laid over those of `defaults`."""
    models: Name | None = None
    """Variant, of this study or another, whose pre-trained models are cleaned; null: the variant
    has models of its own.
    """
    poisoned: bool = True
    """False trains on the unpoisoned pairs: the control."""
    pretrain_objectives: Annotated[list[Objective], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    why: str
    """What the variant is there to show."""


class Axis(Spec):
    """A number in which variants of a study differ, and what they are drawn over."""

    name: Annotated[str, Field(min_length=1)]
    """In words, with the unit: "Epochs of pre-training"."""
    numbers: Annotated[dict[Name, Annotated[FiniteFloat, Field(ge=0)]], Field(min_length=3)]
    """Variant to number, the reference among them."""


class Study(Spec):
    """specs/studies/<name>.yaml, with `defaults` filled in."""

    _file: str = PrivateAttr("")
    """The path of the file, for messages."""
    question: str
    profile: Name
    stages: Annotated[list[Stage], Field(min_length=1)]
    datasets: Annotated[list[Dataset], Field(min_length=1)]
    clean_sizes: list[CleanSize]
    losses: list[Loss]
    """Which part of the profile's cleaning sweep the study makes; both empty where it does not
    clean.
    """
    learning_rates: list[Rate] = Field(default_factory=list)
    """Of the sweep's, those that the study cleans with; all where none is given."""
    reference: Name
    """The variant that the effects of the others are measured against."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    axes: list[Axis] = Field(default_factory=list)
    """What the report draws results over."""

    @model_validator(mode="after")
    def _names_are_variants(self) -> Self:
        allowed = f"(allowed: {', '.join(self.variants)})"
        if self.reference not in self.variants:
            raise ValueError(f"reference: {self.reference!r} {allowed}")

        for axis in self.axes:
            for name in axis.numbers:
                if name not in self.variants:
                    raise ValueError(f"axes: {axis.name}: {name!r} {allowed}")
        return self


class StudyFile(Spec, extra="allow"):
    """specs/studies/<name>.yaml as it is written, as far as `defaults` fill in `variants`."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    """Fields of `Variant` that hold for all variants."""
    variants: dict[str, dict[str, Any]]


def load_study(name: str, specs: Path = SPECS) -> Study:
    """Read and check a study; SpecError names every problem."""
    path = specs / "studies" / f"{name}.yaml"
    written = check(StudyFile, read_yaml(path), path)
    content = written.model_dump(exclude={"defaults"})
    for label, variant in written.variants.items():
        both = [written.defaults.get("overrides", {}), variant.get("overrides", {})]
        content["variants"][label] = written.defaults | variant
        if all(isinstance(overrides, dict) for overrides in both):
            content["variants"][label]["overrides"] = both[0] | both[1]
    study = check(Study, content, path)
    study._file = path.as_posix()
    return study


def varied(study: Study, variant: Variant, specs: Path = SPECS) -> Profile:
    """The study's profile below `specs` with the variant's overrides and seeds."""
    overrides = {"pretrain.seeds": variant.seeds, **variant.overrides}
    return load_profile(study.profile, specs, overrides, study._file)


def archive_of(name: str) -> Path:
    """The file of the study's results, which git keeps."""
    return RESULTS / "studies" / f"{name}.jsonl.gz"


def study_names(specs: Path = SPECS) -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in (specs / "studies").glob("*.yaml"))


def owner(variant: str, specs: Path = SPECS) -> str:
    """The study that trains the models of a variant; SpecError unless exactly one does."""
    owners = [
        name
        for name in study_names(specs)
        for label, own in load_study(name, specs).variants.items()
        if label == variant and own.models is None
    ]
    if len(owners) != 1:
        raise SpecError(
            f"specs/studies: models of variant {variant!r} are trained by"
            f" {', '.join(owners) or 'no study'} (allowed: one study)"
        )
    return owners[0]


def lenders(study: Study) -> dict[str, dict[str, Variant]]:
    """Studies that train the models which this one's variants clean.

    Each with the variants that it lends, and of these the seeds that this study needs: the owner
    may train more.
    """
    seeds: dict[str, set[int]] = defaultdict(set)
    for variant in study.variants.values():
        if variant.models is not None:
            seeds[variant.models] |= set(variant.seeds)

    lent: dict[str, dict[str, Variant]] = defaultdict(dict)
    for label, needed in seeds.items():
        name = owner(label)
        variant = load_study(name).variants[label]
        lent[name][label] = variant.model_copy(update={"seeds": sorted(needed)})
    return lent
