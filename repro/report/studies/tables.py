"""Tables of studies: what each variant gives over seeds, and its effects against the reference.

Shares are fractions. Effects are differences of the same seed, variant less reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pandas as pd

from repro.report.studies.estimates import Effect, Measured, effect, measured
from repro.report.studies.frames import CELL
from repro.spec import CleanSize, Dataset, Objective
from repro.study.spec import Study

MEASURES = {
    "accuracy": "accuracy before cleaning",
    "asr": "ASR before cleaning",
    "cleaned_accuracy": "best accuracy at the ASR threshold",
    "lost": "share of the accuracy lost at the threshold",
    "asr_left": "ASR left",
}
"""Columns of the outcomes, in words."""
LOWEST = {name: 0.0 for name in MEASURES if name != "lost"}
"""A share cannot go below zero; a model may lose less than nothing."""
COMPARED = ("accuracy", "asr", "cleaned_accuracy", "asr_left")
"""Measures with effects; a share lost that is a lower bound cannot be subtracted."""
OF_ATTACK = ("asr", "asr_left")
"""Measures on which an unpoisoned model says nothing but that it has no backdoor."""


@dataclass(frozen=True, slots=True)
class VariantText:
    """How a variant differs from the profile."""

    variant: str
    changed: dict[str, str]
    """Dotted path to value."""
    poisoned: bool
    why: str


@dataclass(frozen=True, slots=True)
class EffectRow:
    """A variant of one model, cleaned with one number of pairs."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    """None where the study does not clean."""
    seeds: list[int]
    measures: dict[str, Measured]
    """By MEASURES, those that some seed has. `cleaned_accuracy` has a mean only where every seed
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


@dataclass(frozen=True, slots=True)
class InteractionRow:
    """How much more a variant changes the best accuracy at the ASR threshold of MMCL + SSL models
    than of MMCL models.
    """

    variant: str
    dataset: Dataset
    clean_size: CleanSize | None
    effect: Effect


@dataclass(frozen=True, slots=True)
class SizeRow:
    """What the larger cleaning set adds to the best accuracy at the ASR threshold."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    effect: Effect
    against_reference: Effect | None
    """How much more than under the reference."""


@dataclass(frozen=True, slots=True)
class Price:
    """What the same finetuning costs a poisoned model and its unpoisoned twin.

    Accuracy before cleaning less the best at the ASR threshold, fractions of the images, over the
    seeds on which both models were cleaned.
    """

    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize
    seeds: list[int]
    poisoned: Measured
    unpoisoned: Measured
    difference: Effect
    """Poisoned less unpoisoned."""


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """One study."""

    name: str
    question: str
    reference: str
    variants: list[VariantText]
    rows: list[EffectRow]
    sizes: list[SizeRow]
    interactions: list[InteractionRow]
    prices: list[Price]
    triggers: dict[str, str] = field(default_factory=dict)
    """Of its runs, name to description."""
    defences: dict[str, str] = field(default_factory=dict)
    """Of its cleaning runs, name to label."""


class Cell(NamedTuple):
    """A model of a variant, and with how many pairs it was cleaned."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None


class StudyTable:
    """The outcomes of a study by cell, and what follows from them.

    `cells` has a table with a row a seed, in the order of the study's file, the reference first.
    """

    def __init__(
        self, study: Study, outcomes: pd.DataFrame, confidence: float, *, effects: bool = True
    ) -> None:
        """`outcomes` are those of `repro.report.studies.frames.outcomes`.

        Without `effects` the table has measures only.
        """
        self.study, self.confidence, self.has_effects = study, confidence, effects
        order = list(dict.fromkeys([study.reference, *study.variants]))
        # An archive may hold a variant that its study no longer names; it comes last.
        ranks = {name: rank for rank, name in enumerate(order)}
        rank = outcomes.variant.map(ranks).fillna(len(order))
        ordered = outcomes.assign(rank=rank).sort_values(["rank", *CELL[1:], "seed"])
        self.cells: dict[Cell, pd.DataFrame] = {}
        for (variant, dataset, objective, size), found in ordered.groupby(
            CELL, sort=False, dropna=False
        ):
            cell = Cell(variant, dataset, objective, None if pd.isna(size) else size)
            self.cells[cell] = found.set_index("seed")

    def entry(self, name: str) -> StudyEntry:
        """All that the report says of the study."""
        return StudyEntry(
            name=name,
            question=self.study.question,
            reference=self.study.reference,
            variants=[
                VariantText(
                    variant=label,
                    changed={path: str(value) for path, value in variant.overrides.items()},
                    poisoned=variant.poisoned,
                    why=variant.why,
                )
                for label, variant in self.study.variants.items()
            ],
            rows=[self._row(cell, found) for cell, found in self.cells.items()],
            sizes=list(self.sizes()),
            interactions=list(self.interactions()),
            prices=list(self.prices()),
        )

    def interactions(self) -> Iterator[InteractionRow]:
        """One row a variant, dataset and cleaning size with models of both objectives."""
        for cell in self.cells:
            if cell.variant == self.study.reference or cell.pretrain_objective != "mmcl_ssl":
                continue
            mmcl = cell._replace(pretrain_objective="mmcl")
            change, other = self._change(cell), self._change(mmcl)
            if (found := self.effect(change - other)) is not None:
                yield InteractionRow(cell.variant, cell.dataset, cell.clean_size, found)

    def sizes(self) -> Iterator[SizeRow]:
        """One row a variant and model that were cleaned with both sizes."""
        for cell in self.cells:
            if cell.clean_size != "200k" or (own := self.effect(self._gain(cell))) is None:
                continue
            change = None
            if cell.variant != self.study.reference:
                change = self.effect(self._gain(cell) - self._gain(self._reference(cell)))
            yield SizeRow(cell.variant, cell.dataset, cell.pretrain_objective, own, change)

    def prices(self) -> Iterator[Price]:
        """Each model of an unpoisoned variant beside the reference's."""
        for cell in self.cells:
            if cell.clean_size is None or not self._is_unpoisoned(cell):
                continue
            poisoned, unpoisoned = (
                self.values(twin, "accuracy") - self.values(twin, "cleaned_accuracy")
                for twin in (self._reference(cell), cell)
            )
            twins = pd.DataFrame({"poisoned": poisoned, "unpoisoned": unpoisoned}).dropna()
            difference = self.effect(twins.poisoned - twins.unpoisoned)
            if difference is not None:
                yield Price(
                    cell.dataset,
                    cell.pretrain_objective,
                    cell.clean_size,
                    seeds=[int(seed) for seed in twins.index],
                    poisoned=measured(list(twins.poisoned), self.confidence),
                    unpoisoned=measured(list(twins.unpoisoned), self.confidence),
                    difference=difference,
                )

    def _row(self, cell: Cell, found: pd.DataFrame) -> EffectRow:
        not_cleaned = int((found.tried & ~found.cleaned).sum())
        measures = {}
        for name in MEASURES:
            values = [None if pd.isna(value) else float(value) for value in found[name]]
            if any(value is not None for value in values):
                measures[name] = measured(values, self.confidence, LOWEST.get(name, -math.inf), 1.0)
        if not_cleaned and "cleaned_accuracy" in measures:
            cleaned = measures["cleaned_accuracy"]
            measures["cleaned_accuracy"] = replace(cleaned, mean=None, ci=None)

        effects = {}
        if cell.variant != self.study.reference:
            for name in COMPARED:
                if name in OF_ATTACK and self._is_unpoisoned(cell):
                    continue
                if (change := self.effect(self._change(cell, name))) is not None:
                    effects[name] = change
        return EffectRow(
            *cell,
            seeds=[int(seed) for seed in found.index],
            measures=measures,
            tried=int(found.tried.sum()),
            not_cleaned=not_cleaned,
            effects=effects,
        )

    def _reference(self, cell: Cell) -> Cell:
        return cell._replace(variant=self.study.reference)

    def _is_unpoisoned(self, cell: Cell) -> bool:
        variant = self.study.variants.get(cell.variant)
        return variant is not None and not variant.poisoned

    def _change(self, cell: Cell, measure: str = "cleaned_accuracy") -> pd.Series:
        """What the variant changes, by seed."""
        return self.values(cell, measure) - self.values(self._reference(cell), measure)

    def _gain(self, cell: Cell) -> pd.Series:
        """What the larger cleaning set adds to the best accuracy, by seed."""
        larger, smaller = (
            self.values(cell._replace(clean_size=size), "cleaned_accuracy")
            for size in ("200k", "100k")
        )
        return larger - smaller

    def values(self, cell: Cell, measure: str) -> pd.Series:
        """A measure by seed; of no seed where there is no such cell."""
        if cell not in self.cells:
            return pd.Series(dtype=float)
        return self.cells[cell][measure].astype(float)

    def effect(self, differences: pd.Series) -> Effect | None:
        """Effect from differences by seed; None for too few."""
        values = [float(value) for value in differences.dropna()]
        return effect(values, self.confidence) if self.has_effects else None
