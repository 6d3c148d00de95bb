"""Tables of studies: what each variant gives over seeds, and its effects against the reference.

Shares are fractions. Effects are differences of the same seed, variant less reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from repro.names import DEFENCES, TRIGGERS
from repro.report.estimates import Effect, Measured, effect, measured
from repro.report.outcomes import CELL, COLUMNS
from repro.spec import CleanSize, Dataset, Objective, RunSpec
from repro.study.spec import Study

COMPARED = ("accuracy", "asr", "cleaned_accuracy", "asr_left")
"""Measures with effects; a share lost that is a lower bound cannot be subtracted."""
OF_ATTACK = ("asr", "asr_left")
"""Measures on which an unpoisoned model says nothing but that it has no backdoor."""


class Cell(NamedTuple):
    """A model of a variant, and with how many pairs it was cleaned."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    """None where the study does not clean."""


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
    """The outcomes of a study by cell, and what follows from them.

    `rows` and `outcomes` are in the order of the study's file, the reference first. `effects` has
    every effect that was asked of the table.
    """

    def __init__(
        self, study: Study, outcomes: pd.DataFrame, confidence: float, *, effects: bool = True
    ) -> None:
        """`outcomes` are those of `repro.report.outcomes`.

        Without `effects` the table has measures only.
        """
        self.study, self.confidence, self.has_effects = study, confidence, effects
        self.effects: list[Effect] = []
        ranks = list(dict.fromkeys([study.reference, *study.variants]))
        rank = outcomes.variant.map(ranks.index)
        self.outcomes = outcomes.assign(rank=rank).sort_values(["rank", *CELL[1:], "seed"])
        self.cells = {
            Cell(variant, data, objective, None if pd.isna(size) else size): rows.set_index("seed")
            for (variant, data, objective, size), rows in self.outcomes.groupby(
                CELL, sort=False, dropna=False
            )
        }
        self.rows = {cell: self._row(cell, table) for cell, table in self.cells.items()}

    def entry(self, name: str, specs: Sequence[RunSpec] = ()) -> StudyEntry:
        """All that the report says of the study; `specs` are those of its runs."""
        triggers = {spec.trigger.name for spec in specs}
        defences = {spec.loss_settings[0] for spec in specs if spec.stage == "clean"}
        return StudyEntry(
            name=name,
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

    def values(self, cell: Cell, measure: str) -> pd.Series:
        """A measure by seed; of no seed where there is no such cell."""
        if cell not in self.cells:
            return pd.Series(dtype=float)
        return self.cells[cell][measure].astype(float)

    def less(self, cell: Cell, other: Cell, measure: str) -> pd.Series:
        """A measure of one cell less that of another, by seed."""
        return self.values(cell, measure) - self.values(other, measure)

    def effect(self, differences: pd.Series) -> Effect | None:
        """Effect from differences by seed; None for too few."""
        change = effect(differences, self.confidence) if self.has_effects else None
        self.effects += [change] if change else []
        return change

    def _row(self, cell: Cell, table: pd.DataFrame) -> EffectRow:
        not_cleaned = int((table.tried & ~table.cleaned).sum())
        measures = {
            # A share cannot go below zero; but a model may lose less than nothing.
            name: measured(self.values(cell, name), self.confidence, negative=name == "lost")
            for name in COLUMNS
            if table[name].notna().any()
        }
        if not_cleaned and "cleaned_accuracy" in measures:
            cleaned = measures["cleaned_accuracy"]
            measures["cleaned_accuracy"] = replace(cleaned, mean=None, ci=None)

        effects = {
            name: change
            for name in COMPARED
            if cell.variant != self.study.reference
            and not (name in OF_ATTACK and self._is_unpoisoned(cell))
            and (change := self.effect(self.less(cell, self._reference(cell), name)))
        }
        tried = int(table.tried.sum())
        return EffectRow(*cell, table.index.tolist(), measures, tried, not_cleaned, effects)

    def _reference(self, cell: Cell) -> Cell:
        return cell._replace(variant=self.study.reference)

    def _is_unpoisoned(self, cell: Cell) -> bool:
        return not self.study.variants[cell.variant].poisoned
