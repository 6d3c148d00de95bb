"""The report's numbers for other programs: evaluations and tables as CSV, and a few for DVC.

Shares are fractions. A value that was not measured is an empty field of a table, and absent from
the metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from repro.report.figures.style import Document
from repro.report.numbers.cells import PANELS
from repro.report.numbers.evidence import Evidence
from repro.report.points import accuracy_kept, evaluations
from repro.report.studies.results import StudyResults

METRICS = "metrics.json"
COLUMNS = (
    *("source", "study", "variant", "stage", "dataset", "pretrain_objective", "poisoned"),
    *("clean_size", "loss", "learning_rate", "seed", "epoch", "step"),
    *("accuracy", "kept", "asr", "correct", "images", "attacked", "attackable"),
    *("figure1", "figure2", "figure3", "run"),
)
"""Of points.csv and archive.csv. `source` is ledger, archive or authors; `kept` is the accuracy as
a share of the start's; `figure1` to `figure3` say where the evaluation is drawn."""
CELL = ["dataset", "clean_size", "pretrain_objective"]
VERDICT = ("p", "p_holm", "verdict", "reason")


def points_of(
    evidence: Evidence, studies: Iterable[StudyResults], drawn_study: str | None
) -> pd.DataFrame:
    """Every evaluation as a row with COLUMNS: the profile's own, the authors', then archives'.

    `drawn_study` is the study whose reference stands in Figures 1 to 3 beside the own runs.
    """
    own = evaluations([*evidence.runs, *evidence.controls], evidence.settings.denominator)
    drawn = evidence.archived | (own.variant == "")
    frames = [
        own.assign(source="ledger", drawn=drawn, kept=accuracy_kept(own)),
        evidence.authors_frame.assign(source="authors", study="", drawn=True, kept=None),
    ]
    for study in studies:
        frame, reference = study.frame, study.spec.reference
        drawn = (study.name == drawn_study) & (frame.variant == reference)
        frames.append(frame.assign(source="archive", drawn=drawn, kept=accuracy_kept(frame)))
    points = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    points = points.rename(columns={"num_correct": "correct", "num_images": "images"})
    points = points.astype({"seed": "Int64", "step": "Int64", "epoch": float, "kept": float})
    for name, cells in PANELS.items():
        inside = pd.MultiIndex.from_frame(points[CELL]).isin(cells)
        points[name] = inside & points.drawn.astype(bool) & points.poisoned.astype(bool)
    return points[list(COLUMNS)]


def exported(document: Document, points: pd.DataFrame) -> dict[str, bytes]:
    """Return the content of the files that other programs read, by name."""
    archived = points.source == "archive"
    tables = {
        "points.csv": points[~archived],
        "archive.csv": points[archived],
        **{f"{name}.csv": flat(document["tables"][name]["rows"]) for name in ("table1", "table2")},
        "verdicts.csv": pd.DataFrame(verdict_rows(document)),
        "bench.csv": flat(document["bench"]),
    }
    files = {
        name: table.to_csv(index=False).encode()
        for name, table in tables.items()
        if len(table.columns)
    }
    return {METRICS: json.dumps(metrics(document), indent=1).encode() + b"\n", **files}


def metrics(document: Document) -> dict[str, Any]:
    """Return what `dvc metrics` compares: differences by measure and setting, and Table 1."""
    differences: dict[str, dict[str, float]] = {}
    for row in verdict_rows(document):
        # The first comparator of a setting stands for it.
        differences.setdefault(row["measure"], {}).setdefault(row["setting"], row["difference"])
    cleaned = {
        "-".join(row[key] for key in CELL): row["clean_accuracy"]["reproduced"]
        for row in document["tables"]["table1"]["rows"]
        if row["clean_accuracy"]["reproduced"] is not None
    }
    return {**differences, "cleaned_accuracy": cleaned}


def verdict_rows(document: Document) -> Iterator[dict[str, Any]]:
    """Every verdict of ours with its difference and 95% interval, as rows of verdicts.csv."""
    verdicts = document["verdicts"]
    for measure in [*(verdicts["confirmed"] or []), *verdicts["exploratory"]]:
        for cell in [*measure["cells"], *([measure["pooled"]] if measure["pooled"] else [])]:
            difference = cell["difference"]
            low, high = difference["interval"] or (None, None)
            pooled = not cell["dataset"]
            yield {
                "fixed": measure["fixed"],
                "measure": measure["measure"],
                "setting": "pooled" if pooled else f"{cell['dataset']}-{cell['clean_size']}",
                "comparator": cell["comparator"],
                "unit": measure["unit"],
                "seeds": difference["seeds"],
                "mmcl": cell["mmcl"]["mean"],
                "mmcl_ssl": cell["mmcl_ssl"]["mean"],
                "difference": difference["mean"],
                "low": low,
                "high": high,
                "at_least": difference["at_least"],
                **{key: cell[key] for key in VERDICT},
            }


def flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of report.json: nested values are named by their path, lists are left out."""
    table = pd.json_normalize(rows, sep="_")
    for name in [name for name in table if name.endswith(("ci", "ci95", "interval"))]:
        place = table.columns.get_loc(name)
        low, high = zip(*(value or (None, None) for value in table.pop(name)), strict=True)
        table.insert(place, f"{name}_low", low)
        table.insert(place + 1, f"{name}_high", high)
    is_list = table.map(lambda value: isinstance(value, list)).any()
    # Counts stay whole where a row has none.
    return table.loc[:, ~is_list].convert_dtypes()
