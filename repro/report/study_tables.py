"""Tables of studies: what each variant gives over seeds, its effects against the reference, and
what a study measured over a number in which its variants differ.

Shares are fractions. Effects are differences of the same seed, variant less reference; those of all
studies are exploratory (docs/method.md).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from repro.intervals import Interval, student
from repro.names import DEFENCES, TRIGGERS
from repro.report.cells import DATASETS, OBJECTIVES
from repro.report.contrasts import FEWEST_SEEDS, Contrast, Effect, effect
from repro.report.measures import BY_NAME, Context, Evaluations, Models
from repro.spec import CleanSize, Dataset, Objective, RunSpec
from repro.study.spec import Study

COLUMNS = {
    "accuracy": "start_accuracy",
    "asr": "start_asr",
    "cleaned_accuracy": "accuracy_at_cap",
    "lost": "lost_at_cap",
    "asr_left": "asr_left_at_rate",
}
"""Measures of the tables by column."""
COMPARED = ("accuracy", "asr", "cleaned_accuracy", "asr_left")
"""Columns with effects; a share lost that is a lower bound cannot be subtracted."""
OF_ATTACK = ("asr", "asr_left")
"""Columns on which an unpoisoned model says nothing but that it has no backdoor."""


class Place(NamedTuple):
    """A model of a variant, and with how many pairs it was cleaned."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    """None where it was not cleaned."""


@dataclass(frozen=True)
class Measured:
    """A measure over seeds."""

    values: list[float | None]
    """One value a seed; None where it was not measured."""
    mean: float | None
    """Over the seeds that have a value."""
    ci: Interval | None
    """Student's, within the possible values; None for fewer than FEWEST_SEEDS seeds."""


def measured(
    values: Sequence[float | None], confidence: float, *, negative: bool = False
) -> Measured:
    """Mean and interval of a share over seeds; the interval ends at 1, and at 0 if the share cannot
    be `negative`.
    """
    known = [value for value in values if value is not None]
    ends = None
    if len(known) >= FEWEST_SEEDS:
        low, high = student(known, confidence)
        ends = (low if negative else max(0.0, low), min(1.0, high))
    return Measured(list(values), fmean(known) if known else None, ends)


@dataclass(frozen=True)
class EffectRow:
    """A variant of one model, cleaned with one number of pairs."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    seeds: list[int]
    measures: dict[str, Measured]
    """By COLUMNS, those that some seed has. `cleaned_accuracy` has a mean only where every seed
    was cleaned: seeds that were cleaned are no sample of all.
    """
    tried: int
    """Seeds on which CleanCLIP was run."""
    not_cleaned: int
    """Of these, the ones on which no evaluation reached the ASR threshold. `lost` is then a lower
    bound.
    """
    effects: dict[str, Effect]
    """By COMPARED; empty for the reference."""


@dataclass(frozen=True)
class StudyEntry:
    """One study."""

    name: str
    question: str
    predicted: str
    reference: str
    variants: dict[str, str]
    """Name to what the variant is there to show."""
    rows: list[EffectRow]
    triggers: dict[str, str]
    """Of its runs, name to description, in the order of `names.TRIGGERS`."""
    defences: dict[str, str]
    """Of its cleaning runs, name to label."""


class StudyTable:
    """The models of a study by place, and what follows from them.

    `rows` are in the order of the study's file, the reference first.
    """

    def __init__(
        self,
        name: str,
        study: Study,
        evaluations: Evaluations,
        confidence: float,
        *,
        effects: bool = True,
    ) -> None:
        """Without `effects` the table has measures only."""
        self.name, self.study, self.evaluations = name, study, evaluations
        self.confidence, self.has_effects = confidence, effects
        self.rows = {place: self._row(place, seeds) for place, seeds in self._places()}

    def entry(self, specs: Sequence[RunSpec] = ()) -> StudyEntry:
        """All that the report says of the study; `specs` are those of its runs."""
        triggers = {spec.trigger.name for spec in specs}
        defences = {spec.defence_settings.name for spec in specs if spec.stage == "clean"}
        return StudyEntry(
            name=self.name,
            question=self.study.question,
            predicted=self.study.predicted,
            reference=self.study.reference,
            variants={name: variant.why for name, variant in self.study.variants.items()},
            rows=list(self.rows.values()),
            triggers={name: text for name, text in TRIGGERS.items() if name in triggers},
            defences={
                name: defence.label for name, defence in DEFENCES.items() if name in defences
            },
        )

    def _models(self, place: Place) -> Models:
        variant, dataset, objective, size = place
        return Models((f"{self.name}/{variant}",), objective, dataset, size)

    def _places(self) -> Iterator[tuple[Place, list[int]]]:
        """Every place that has models, with their seeds; those that were not cleaned have a place
        of their own.
        """
        frame = self.evaluations.frame
        own = frame[frame.study == self.name]
        variants = dict.fromkeys([self.study.reference, *self.study.variants])
        models = product(variants, sorted(set(own.dataset)), sorted(set(own.pretrain_objective)))
        sizes = sorted(set(own.clean_size[own.stage == "clean"]))
        for variant, dataset, objective in models:
            cleaned: set[int] = set()
            for size in sizes:
                place = Place(variant, dataset, objective, size)
                if seeds := self._seeds(place):
                    cleaned |= seeds
                    yield place, sorted(seeds)
            place = Place(variant, dataset, objective, None)
            if seeds := self._seeds(place) - cleaned:
                yield place, sorted(seeds)

    def _seeds(self, place: Place) -> set[int]:
        return {*self.evaluations.models(self._models(place))}

    def _row(self, place: Place, seeds: list[int]) -> EffectRow:
        models = self._models(place)
        tried, not_cleaned = 0, 0
        if place.clean_size:
            by_seed = self.evaluations.models(models)
            tried = len(seeds)
            not_cleaned = sum(by_seed[seed].best is None for seed in seeds)

        measures = {}
        for column, name in COLUMNS.items():
            found = self.evaluations.values(models, BY_NAME[name].of)
            values = [found[seed].value if seed in found else None for seed in seeds]
            if any(value is not None for value in values):
                # A share cannot go below zero; but a model may lose less than nothing.
                measures[column] = measured(values, self.confidence, negative=column == "lost")
        if not_cleaned and "cleaned_accuracy" in measures:
            cleaned = measures["cleaned_accuracy"]
            measures["cleaned_accuracy"] = replace(cleaned, mean=None, ci=None)
        return EffectRow(*place, seeds, measures, tried, not_cleaned, self._effects(place))

    def _effects(self, place: Place) -> dict[str, Effect]:
        """Every column of COMPARED less that of the reference, paired over seeds; without those of
        too few seeds.
        """
        reference = place._replace(variant=self.study.reference)
        if place == reference or not self.has_effects:
            return {}
        terms = {self._models(place): 1.0, self._models(reference): -1.0}
        poisoned = self.study.variants[place.variant].poisoned
        found = {}
        for column in COMPARED:
            if poisoned or column not in OF_ATTACK:
                contrast = Contrast(BY_NAME[COLUMNS[column]].of, terms)
                if change := effect(contrast, self.evaluations, self.confidence):
                    found[column] = change
        return found


@dataclass(frozen=True)
class Point:
    """The models of a variant at its number."""

    number: float
    measures: dict[str, Measured]
    """As EffectRow has them."""


@dataclass(frozen=True)
class Response:
    """What a study measured over an axis, in one setting."""

    study: str
    axis: str
    dataset: Dataset
    clean_size: CleanSize | None
    """None where the study does not clean."""
    curves: dict[Objective, list[Point]]
    """By objective, by rising number."""


def responses(table: StudyTable) -> Iterator[Response]:
    """What a study measured over its axes: one entry an axis and setting that has runs."""
    study = table.study
    sizes: list[CleanSize | None] = [*study.clean_sizes] if "clean" in study.stages else [None]
    for axis, dataset, size in product(study.axes, DATASETS, sizes):
        # By the number and not by the variant's place in the file, since a line joins the points.
        numbers = sorted(axis.numbers.items(), key=lambda item: item[1])
        curves = {
            objective: [
                Point(number, table.rows[place].measures)
                for variant, number in numbers
                if (place := Place(variant, dataset, objective, size)) in table.rows
            ]
            for objective in OBJECTIVES
        }
        if any(curves.values()):
            yield Response(table.name, axis.name, dataset, size, curves)


REPLICATES = Path("results/replicates")
EARLIER = "seeds_before_clamp"
"""The seeds 10 to 12 of the unchanged profile, before the temperature's limit was rounded."""
REPEATED = ["accuracy", "asr", "lost", "asr_left"]
"""Columns of replicates."""


@dataclass(frozen=True)
class Replicates:
    """How much of a measure is rounding: equal trainings of one seed whose sums were rounded
    otherwise. No part of a verdict.
    """

    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize
    measure: str
    """A column of REPEATED."""
    seeds: dict[int, dict[str, float]]
    """By seed, then by archive and processor; equal draws once."""
    sd: float
    """Between replicates of one seed, pooled over seeds."""
    sd_seeds: float | None
    """Between the seeds, each at the mean of its replicates; None for one seed."""


def replicates(archives: Mapping[str, pd.DataFrame], context: Context) -> Iterator[Replicates]:
    """One entry a model, cleaning size and measure that some seed has twice.

    `archives`: evaluations of the unchanged profile by archive, from two kinds of processor, and
    from before a change of code that leaves the mathematics as it is. Compared are the learning
    rates that all archives of a model have.
    """
    if not archives:
        return
    # Every cleaning run evaluates the start model first, so pre-training's rows are not needed.
    draws = pd.concat(
        runs.assign(study="", variant=name + " (" + runs.machine + ")")
        for name, runs in archives.items()
    )
    cleaning = draws[draws.stage == "clean"]
    for place, runs in cleaning.groupby(["dataset", "pretrain_objective", "clean_size"]):
        rates = set.intersection(*(set(own.learning_rate) for _, own in runs.groupby("variant")))
        evaluations = Evaluations(runs[runs.learning_rate.isin(rates)], context)
        yield from _repeated(evaluations, *place)


def _repeated(
    evaluations: Evaluations, dataset: Dataset, objective: Objective, size: CleanSize
) -> Iterator[Replicates]:
    rows = []
    for variant in dict.fromkeys(evaluations.frame.variant):
        models = Models((f"/{variant}",), objective, dataset, size)
        values = {
            column: {
                seed: value.value
                for seed, value in evaluations.values(models, BY_NAME[COLUMNS[column]].of).items()
            }
            for column in REPEATED
        }
        for seed in evaluations.models(models):
            of_seed = {column: by_seed.get(seed, math.nan) for column, by_seed in values.items()}
            rows.append({"variant": variant, "seed": seed, **of_seed})
    table = pd.DataFrame(rows, columns=["variant", "seed", *REPEATED])
    for column in REPEATED:
        distinct = table.dropna(subset=[column]).drop_duplicates(["seed", *REPEATED])
        several = distinct[distinct.duplicated("seed", keep=False)]
        if several.empty:
            continue
        groups = several.groupby("seed")
        yield Replicates(
            dataset,
            objective,
            size,
            column,
            seeds={
                int(seed): dict(zip(own.variant, own[column], strict=True)) for seed, own in groups
            },
            sd=math.sqrt(groups[column].var().mean()),
            sd_seeds=groups[column].mean().std() if len(groups) > 1 else None,
        )
