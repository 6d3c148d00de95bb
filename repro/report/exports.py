"""The report's numbers for other programs: points and tables as CSV, and a few of them for DVC.

All shares are fractions. A value that was not measured is an empty field of a table, and absent
from the metrics.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from repro.report.pages.verdicts import verdict_counts

METRICS, POINTS, TABLE1, TABLE2 = "metrics.json", "points.csv", "table1.csv", "table2.csv"
EXPORTS = (METRICS, POINTS, TABLE1, TABLE2)
"""Names of the files that `exported` gives."""
MODEL = ("dataset", "pretrain_objective")
CELL = ("dataset", "clean_size", "pretrain_objective")
POINT = (
    "source",
    *CELL,
    "loss",
    "learning_rate",
    "seed",
    "epoch",
    "step",
    "accuracy",
    "kept",
    "asr",
    "images",
    "attackable",
    "run",
)
"""Fields of a dot in report.json: the columns of points.csv after the name of its figure."""
NUMBER = ("paper", "authors_points", "reproduced", "n", "run")
CLEANED = ("asr", "learning_rate", "epoch", "row", "evaluations", "successes", "lowest_asr")
"""Fields of a number of Table 1 or 2, and those that only a cleaned one has."""
CONTROL = ("loss", "asr", "holds")
"""Fields of a positive control that the metrics have: accuracy lost and ASR at the cap, passed."""


def exported(document: dict[str, Any]) -> dict[str, bytes]:
    """Content of the files by name."""
    table1 = [_table1_row(row) for row in document["tables"]["table1"]["rows"]]
    table2 = [_table2_row(row) for row in document["tables"]["table2"]["rows"]]
    contents = {
        METRICS: json.dumps(_metrics(document), indent=1) + "\n",
        POINTS: _csv(_points(document), ("figure", *POINT)),
        # Both have all rows of the paper, be they measured or not.
        TABLE1: _csv(table1, list(table1[0])),
        TABLE2: _csv(table2, list(table2[0])),
    }
    return {name: text.encode() for name, text in contents.items()}


def _metrics(document: dict[str, Any]) -> dict[str, Any]:
    """Table 1 as it is of our own runs, and the verdicts: what `dvc metrics` compares."""
    # DVC shows one column a number, so only those that a reader compares two studies by.
    cells = {}
    for row in document["tables"]["table1"]["rows"]:
        before, after = row["original_accuracy"], row["clean_accuracy"]
        drop, control = after["relative_drop"], row["control"]
        values = {
            "original_accuracy": before["reproduced"],
            "clean_accuracy": after["reproduced"],
            "asr": after["asr"],
            "relative_drop": drop and drop["value"],
            # Whether the row tells anything: CleanCLIP on the MMCL model beside it.
            "control": control and {key: control[key] for key in CONTROL},
        }
        name = "-".join(row[key] for key in CELL)
        cells[name] = {key: value for key, value in values.items() if value is not None}

    return {
        "verdict": document["headline"]["verdict"],
        "claims": verdict_counts(document),
        "table1": cells,
    }


def _points(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"figure": name, **{key: point[key] for key in POINT}}
        for name, figure in document["figures"].items()
        for point in figure["points"]
    ]


def _table1_row(row: Mapping[str, Any]) -> dict[str, Any]:
    clean = row["clean_accuracy"]
    drop = clean["relative_drop"]
    return {
        **{key: row[key] for key in CELL},
        **_number("original_accuracy", row["original_accuracy"]),
        **_number("clean_accuracy", clean),
        **{f"clean_{key}": clean[key] for key in CLEANED},
        **_ends("clean_asr", clean["asr_ci95"]),
        "relative_drop": drop and drop["value"],
        **_ends("relative_drop", drop and drop["ci"]),
    }


def _table2_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in MODEL},
        **_number("accuracy", row["accuracy"]),
        **_number("asr", row["asr"]),
    }


def _number(name: str, number: Mapping[str, Any]) -> dict[str, Any]:
    """A number with its sources and its interval, each column under the number's name."""
    return {
        **{f"{name}_{key}": number[key] for key in NUMBER},
        **_ends(name, number["ci95"]),
    }


def _ends(name: str, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows under the names of their columns, which stand there without rows too."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
