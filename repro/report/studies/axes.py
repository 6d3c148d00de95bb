"""What a study measured over a number in which its variants differ (`axes` of its specification),
and how far models resist cleaning that were equally good before it.
"""

from itertools import product
from typing import Any

import pandas as pd

from repro.report.numbers.cells import DATASETS, OBJECTIVES
from repro.report.studies.tables import Cell, StudyTable
from repro.spec import CleanSize, Dataset

FEWEST_STARTS = 2
"""MMCL models of other accuracies, beside the reference, among which an equal one is looked for."""
GAP = "MMCL + SSL less MMCL"
MATCHED = ["accuracy", "asr_left", "lost"]


def responses(name: str, table: StudyTable, rate: float | None) -> list[dict[str, Any]]:
    """What a study measured over its axes: one entry an axis, dataset and cleaning size that has
    runs; the size is None where the study does not clean.

    `rate`: the learning rate at which `asr_left` of the table was measured. `curves` have the rows
    of the table by rising number, one curve an objective. `effects` are on the measure `tested`,
    the ASR left, else the ASR before cleaning: of an objective at every number but the lowest, less
    what is measured at the lowest; and of GAP at the lowest number and at the highest, where both
    were run.
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
        mmcl, ssl = (cells[objective] for objective in OBJECTIVES)
        both = sorted(mmcl.keys() & ssl.keys())
        contrasts = [
            (str(objective), number, cell, next(iter(by_number.values())))
            for objective, by_number in cells.items()
            for number, cell in [*by_number.items()][1:]
        ]
        # The two ends may be one.
        ends = dict.fromkeys([*both[:1], *both[-1:]])
        contrasts += [(GAP, end, ssl[end], mmcl[end]) for end in ends]
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
                                "number": number,
                                "variant": cell.variant,
                                "measures": table.rows[cell].measures,
                            }
                            for number, cell in by_number.items()
                        ],
                    }
                    for objective, by_number in cells.items()
                    if by_number
                ],
                "tested": tested,
                "effects": [
                    {"of": of, "number": number, "effect": effect}
                    for of, number, cell, other in contrasts
                    if (effect := table.effect(table.less(cell, other, tested)))
                ],
            }
        )
    return entries


def equal_starts(name: str, table: StudyTable, rate: float | None) -> list[dict[str, Any]]:
    """The reference's MMCL + SSL models against MMCL models that were as good before cleaning: one
    entry a dataset and cleaning size.

    Of every seed the MMCL model is taken, among those of all variants, whose accuracy before
    cleaning is nearest. Effects are MMCL + SSL less MMCL. None of a study that has no MMCL models
    of other accuracies.
    """
    study = table.study
    others = sum(
        variant.models is None and "mmcl" in variant.pretrain_objectives
        for variant in study.variants.values()
    )
    if rate is None or "clean" not in study.stages or not study.axes or others < FEWEST_STARTS:
        return []

    entries = []
    for dataset, size in product(DATASETS, study.clean_sizes):
        pairs = _matched(table, dataset, size)
        effects = {name: table.effect(pairs[f"{name}_ssl"] - pairs[name]) for name in MATCHED}
        if all(effects.values()):
            place = {"study": name, "dataset": dataset, "clean_size": size, "learning_rate": rate}
            entries.append({**place, "seeds": pairs.to_dict("records"), **effects})
    return entries


def _matched(table: StudyTable, dataset: Dataset, size: CleanSize) -> pd.DataFrame:
    """A row a seed: the MMCL model that is nearest, and with `_ssl` the reference's MMCL + SSL."""
    cleaned = table.outcomes.dropna(subset=MATCHED)
    cleaned = cleaned[(cleaned.dataset == dataset) & (cleaned.clean_size == size)]
    models = cleaned[["seed", "variant", *MATCHED]]
    reference = cleaned.variant == table.study.reference
    pairs = models[cleaned.pretrain_objective == "mmcl"].merge(
        models[reference & (cleaned.pretrain_objective == "mmcl_ssl")],
        on="seed",
        suffixes=("", "_ssl"),
    )
    nearest = (pairs.accuracy - pairs.accuracy_ssl).abs().groupby(pairs.seed).idxmin()
    return pairs.loc[nearest]
