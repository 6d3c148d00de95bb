"""What a study measured over a number in which its variants differ (`axes` of its file)."""

from itertools import product
from typing import Any

from repro.report.cells import DATASETS, OBJECTIVES
from repro.report.study_tables import Cell, StudyTable

GAP = "MMCL + SSL less MMCL"


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
