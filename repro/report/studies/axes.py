"""What a study measured over a number in which its variants differ (`axes` of its specification),
and how far models resist cleaning that were equally good before it.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from repro.report.numbers.cells import DATASETS, OBJECTIVES
from repro.report.studies.tables import Cell, StudyTable
from repro.spec import CleanSize, Dataset

FEWEST_STARTS = 2
"""MMCL models of other accuracies, beside the reference, among which an equal one is looked for."""
POINT = ("variant", "seeds", "measures", "not_cleaned")
MATCHED = ["accuracy", "asr_left", "lost"]


def responses(name: str, table: StudyTable, rate: float | None) -> list[dict[str, Any]]:
    """What a study measured over its axes: one entry an axis, dataset and cleaning size that has
    runs; the size is None where the study does not clean.

    `rate`: the learning rate at which `asr_left` of the table was measured. `curves` have the rows
    of the table by rising number, one curve an objective. `changes` and `gaps` are effects on the
    measure `tested`, the ASR left, else the ASR before cleaning: at every number but the lowest,
    less what is measured at the lowest; and MMCL + SSL less MMCL, at the lowest number and at the
    highest, where both were run.
    """
    study, entries = table.study, []
    sizes = study.clean_sizes if "clean" in study.stages else [None]
    for axis, dataset, size in product(study.axes, DATASETS, sizes):
        # By the number and not by the variant's place in the file, since a line joins the points.
        numbers = sorted(axis.numbers.items(), key=lambda item: item[1])
        cells = {
            objective: {
                number: cell
                for variant, number in numbers
                if (cell := Cell(variant, dataset, objective, size)) in table.rows
            }
            for objective in OBJECTIVES
        }
        rows = [table.rows[cell] for by_number in cells.values() for cell in by_number.values()]
        if not rows:
            continue
        tested = "asr_left" if any("asr_left" in row.measures for row in rows) else "asr"
        changes = {
            objective: _effects(table, tested, by_number, dict.fromkeys([*by_number][1:], lowest))
            for objective, by_number in cells.items()
            for lowest in [*by_number.values()][:1]
        }
        mmcl, ssl = (cells[objective] for objective in OBJECTIVES)
        both = sorted(mmcl.keys() & ssl.keys())
        entries.append(
            {
                "study": name,
                "axis": axis.name,
                "dataset": dataset,
                "clean_size": size,
                "learning_rate": None if size is None else rate,
                "curves": [
                    {
                        "pretrain_objective": objective,
                        "points": [
                            {
                                "number": at,
                                **{name: getattr(table.rows[cell], name) for name in POINT},
                            }
                            for at, cell in by_number.items()
                        ],
                    }
                    for objective, by_number in cells.items()
                    if by_number
                ],
                "tested": tested,
                "changes": {objective: change for objective, change in changes.items() if change},
                # The two ends may be one.
                "gaps": _effects(
                    table, tested, ssl, {end: mmcl[end] for end in (*both[:1], *both[-1:])}
                ),
            }
        )
    return entries


def _effects(
    table: StudyTable, measure: str, cells: dict[float, Cell], others: dict[float, Cell]
) -> list[dict[str, Any]]:
    """At each number of `others` one cell less the other."""
    effects = {at: table.effect(table.less(cells[at], others[at], measure)) for at in others}
    return [{"number": number, "effect": effect} for number, effect in effects.items() if effect]


def equal_starts(name: str, table: StudyTable, rate: float | None) -> list[dict[str, Any]]:
    """The reference's MMCL + SSL models against MMCL models that were as good before cleaning: one
    entry a dataset and cleaning size.

    Of every seed the MMCL model is taken, among those of all variants, whose accuracy before
    cleaning is nearest. Effects are MMCL + SSL less MMCL. None of a study that has no MMCL models
    of other accuracies.
    """
    study = table.study
    others = [
        variant
        for variant in study.variants.values()
        if variant.models is None and "mmcl" in variant.pretrain_objectives
    ]
    if rate is None or "clean" not in study.stages or not study.axes or len(others) < FEWEST_STARTS:
        return []

    entries = []
    for dataset, size in product(DATASETS, study.clean_sizes):
        pairs = _matched(table, dataset, size)
        effects = {name: table.effect(pairs[f"{name}_ssl"] - pairs[name]) for name in MATCHED}
        fields = ("variant", *MATCHED, "cleaned")
        seeds = [
            {
                "seed": pair.seed,
                "mmcl": {name: pair[name] for name in fields},
                "mmcl_ssl": {name: pair[f"{name}_ssl"] for name in fields},
            }
            for _, pair in pairs.iterrows()
        ]
        if all(effects.values()):
            place = {"study": name, "dataset": dataset, "clean_size": size, "learning_rate": rate}
            entries.append({**place, "seeds": seeds, **effects})
    return entries


def _matched(table: StudyTable, dataset: Dataset, size: CleanSize | None) -> pd.DataFrame:
    """A row a seed: the MMCL model that is nearest, and with `_ssl` the reference's MMCL + SSL."""
    columns = ["seed", "variant", *MATCHED, "cleaned"]

    def models(cells: list[Cell]) -> pd.DataFrame:
        none = pd.DataFrame(columns=columns)
        tables = [table.cells[cell].reset_index()[columns].dropna(subset=MATCHED) for cell in cells]
        return pd.concat(tables) if tables else none

    reference = Cell(table.study.reference, dataset, "mmcl_ssl", size)
    mmcl = [cell for cell in table.cells if cell[1:] == (dataset, "mmcl", size)]
    ssl = [cell for cell in table.cells if cell == reference]
    pairs = models(mmcl).merge(models(ssl), on="seed", suffixes=("", "_ssl"))
    nearest = (pairs.accuracy - pairs.accuracy_ssl).abs().groupby(pairs.seed).idxmin()
    return pairs.loc[nearest]
