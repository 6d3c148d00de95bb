"""Tables of studies: what each variant gives over seeds, and what a study measured over a number in
which its variants differ. Shares are fractions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import NamedTuple

from repro.intervals import Interval, student
from repro.names import DEFENCES, TRIGGERS
from repro.report.cells import DATASETS, OBJECTIVES
from repro.report.measures import BY_NAME, Evaluations, Models
from repro.report.seeds import FEWEST_SEEDS
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
        self, name: str, study: Study, evaluations: Evaluations, confidence: float
    ) -> None:
        """`evaluations` are those of the study at least."""
        self.name, self.study, self.evaluations = name, study, evaluations
        self.confidence = confidence
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
        return EffectRow(*place, seeds, measures, tried, not_cleaned)


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
