"""Tables of studies: what each variant gives over seeds, and its effects against the reference.

Shares are fractions. Effects are differences of the same seed, variant less reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from repro.names import DEFENCES, TRIGGERS
from repro.report.studies.estimates import Effect, Measured, effect, measured
from repro.report.studies.outcomes import CELL, MEASURES
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


@dataclass(frozen=True, slots=True)
class EffectRow:
    """A variant of one model, cleaned with one number of pairs."""

    variant: str
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
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
class StudyEntry:
    """One study."""

    name: str
    question: str
    reference: str
    variants: list[dict[str, Any]]
    rows: list[EffectRow]
    sizes: list[dict[str, Any]]
    interactions: list[dict[str, Any]]
    prices: list[dict[str, Any]]
    triggers: dict[str, str]
    """Of its runs, name to description, in the order of `names.TRIGGERS`."""
    defences: dict[str, str]
    """Of its cleaning runs, name to label."""


class StudyTable:
    """The outcomes of a study by cell, and what follows from them.

    `rows` are in the order of the study's file, the reference first. `effects` has every effect
    that was asked of the table.
    """

    def __init__(
        self, study: Study, outcomes: pd.DataFrame, confidence: float, *, effects: bool = True
    ) -> None:
        """`outcomes` are those of `repro.report.studies.outcomes`.

        Without `effects` the table has measures only.
        """
        self.study, self.confidence, self.has_effects = study, confidence, effects
        self.effects: list[Effect] = []
        order = list(dict.fromkeys([study.reference, *study.variants]))
        # An archive may hold a variant that its study no longer names; it comes last.
        ranks = {name: rank for rank, name in enumerate(order)}
        rank = outcomes.variant.map(ranks).fillna(len(order))
        ordered = outcomes.assign(rank=rank).sort_values(["rank", *CELL[1:], "seed"])
        self.cells: dict[Cell, pd.DataFrame] = {}
        for (variant, dataset, objective, size), rows in ordered.groupby(
            CELL, sort=False, dropna=False
        ):
            cell = Cell(variant, dataset, objective, None if pd.isna(size) else size)
            self.cells[cell] = rows.set_index("seed")
        self.rows = {cell: self._row(cell, table) for cell, table in self.cells.items()}

    def entry(self, name: str, specs: Iterable[RunSpec] = ()) -> StudyEntry:
        """All that the report says of the study; `specs` are those of its runs."""
        specs = list(specs)
        triggers = {spec.trigger.name for spec in specs}
        defences = {spec.loss_settings[0] for spec in specs if spec.stage == "clean"}
        variants = [
            {
                "variant": label,
                "changed": {path: str(value) for path, value in variant.overrides.items()},
                "poisoned": variant.poisoned,
                "why": variant.why,
            }
            for label, variant in self.study.variants.items()
        ]
        return StudyEntry(
            name=name,
            question=self.study.question,
            reference=self.study.reference,
            variants=variants,
            rows=list(self.rows.values()),
            sizes=list(self._sizes()),
            interactions=list(self._interactions()),
            prices=list(self._prices()),
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

    def less(self, cell: Cell, other: Cell, measure: str = "cleaned_accuracy") -> pd.Series:
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
            for name in MEASURES
            if table[name].notna().any()
        }
        if not_cleaned and "cleaned_accuracy" in measures:
            cleaned = measures["cleaned_accuracy"]
            measures["cleaned_accuracy"] = replace(cleaned, mean=None, ci=None)

        effects = {}
        if cell.variant != self.study.reference:
            for name in COMPARED:
                if name in OF_ATTACK and self._is_unpoisoned(cell):
                    continue
                if change := self.effect(self.less(cell, self._reference(cell), name)):
                    effects[name] = change
        tried = int(table.tried.sum())
        return EffectRow(*cell, _seeds(table), measures, tried, not_cleaned, effects)

    def _interactions(self) -> Iterator[dict[str, Any]]:
        """How much more a variant changes the best accuracy at the ASR threshold of MMCL + SSL
        models than of MMCL models: one row a variant, dataset and cleaning size.
        """
        for cell in self.cells:
            if cell.variant == self.study.reference or cell.pretrain_objective != "mmcl_ssl":
                continue
            mmcl = cell._replace(pretrain_objective="mmcl")
            with_ssl, without = (self.less(model, self._reference(model)) for model in (cell, mmcl))
            if change := self.effect(with_ssl - without):
                yield {"variant": cell.variant, **_place(cell), "effect": change}

    def _sizes(self) -> Iterator[dict[str, Any]]:
        """What the larger cleaning set adds to the best accuracy at the ASR threshold, and how much
        more than under the reference: one row a variant and model.
        """
        for cell in self.cells:
            gain, reference = (
                self.less(model, model._replace(clean_size="100k"))
                for model in (cell, self._reference(cell))
            )
            if cell.clean_size == "200k" and (own := self.effect(gain)):
                is_reference = cell.variant == self.study.reference
                change = None if is_reference else self.effect(gain - reference)
                names = cell._asdict()
                del names["clean_size"]
                yield {**names, "effect": own, "against_reference": change}

    def _prices(self) -> Iterator[dict[str, Any]]:
        """What the same finetuning costs a poisoned model and its unpoisoned twin: accuracy before
        cleaning less the best at the ASR threshold, on the seeds on which both were cleaned.
        """
        for cell in self.cells:
            if cell.clean_size is None or not self._is_unpoisoned(cell):
                continue
            poisoned, unpoisoned = (
                self.values(twin, "accuracy") - self.values(twin, "cleaned_accuracy")
                for twin in (self._reference(cell), cell)
            )
            twins = pd.DataFrame({"poisoned": poisoned, "unpoisoned": unpoisoned}).dropna()
            costs = {name: measured(twins[name], self.confidence, negative=True) for name in twins}
            if difference := self.effect(twins.poisoned - twins.unpoisoned):
                place = _place(cell) | {"pretrain_objective": cell.pretrain_objective}
                yield {**place, "seeds": _seeds(twins), **costs, "difference": difference}

    def _reference(self, cell: Cell) -> Cell:
        return cell._replace(variant=self.study.reference)

    def _is_unpoisoned(self, cell: Cell) -> bool:
        variant = self.study.variants.get(cell.variant)
        return variant is not None and not variant.poisoned


def _place(cell: Cell) -> dict[str, Any]:
    return {"dataset": cell.dataset, "clean_size": cell.clean_size}


def _seeds(table: pd.DataFrame) -> list[int]:
    return [int(seed) for seed in table.index]
