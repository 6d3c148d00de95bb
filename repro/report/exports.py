"""The report's numbers for other programs: evaluations and tables as CSV, and a few for DVC.

Shares are fractions. A value that was not measured is an empty field of a table, and absent from
the metrics.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from repro.report.numbers.cells import PANELS
from repro.report.numbers.evaluations import FinishedRun, Point
from repro.report.numbers.evidence import Evidence
from repro.report.studies.results import StudyResults

METRICS, POINTS, ARCHIVE = "metrics.json", "points.csv", "archive.csv"
TABLE1, TABLE2, VERDICTS = "table1.csv", "table2.csv", "verdicts.csv"
COLUMNS = (
    *("source", "study", "variant", "stage", "dataset", "pretrain_objective", "poisoned"),
    *("clean_size", "loss", "learning_rate", "seed", "epoch", "step"),
    *("accuracy", "kept", "asr", "correct", "images", "attacked", "attackable"),
    *("figure1", "figure2", "figure3", "run"),
)
"""Of points.csv and archive.csv. `source` is ledger, archive or authors; `kept` is the accuracy as
a share of the start's; `figure1` to `figure3` say where the evaluation is drawn."""
CELL = ("dataset", "clean_size", "pretrain_objective")


def evaluations(
    evidence: Evidence, studies: Iterable[StudyResults], drawn_study: str | None
) -> list[dict[str, Any]]:
    """Every evaluation as a row with COLUMNS: the profile's own, the authors', then archives'.

    `drawn_study` is the study whose reference stands in Figures 1 to 3 beside the own runs.
    """
    rows = [
        *_rows_of(evidence, [*evidence.runs, *evidence.controls], "ledger", "", drawn=True),
        *(_row(point, None, None, drawn=True) for point in evidence.authors),
    ]
    for study in studies:
        for name, variant in study.by_variant(evidence.settings).items():
            drawn = study.name == drawn_study and name == f"{study.name}/{study.spec.reference}"
            rows += _rows_of(variant, variant.runs, "archive", study.name, drawn=drawn)
    return rows


def _rows_of(
    evidence: Evidence, runs: Iterable[FinishedRun], source: str, study: str, *, drawn: bool
) -> Iterator[dict[str, Any]]:
    start_of = lru_cache(maxsize=None)(evidence.start)
    for run in runs:
        spec = run.record.spec
        start = start_of(spec.dataset, spec.pretrain_objective, spec.seed)
        for point in run.points(evidence.settings.denominator):
            is_drawn = drawn and spec.poisoned and (evidence.archived or not spec.variant)
            row = _row(point, run, start, drawn=is_drawn)
            yield {**row, "source": source, "study": study}


def _row(
    point: Point, run: FinishedRun | None, start: Point | None, *, drawn: bool
) -> dict[str, Any]:
    spec = run.record.spec if run else None
    cell = (point.dataset, point.clean_size, point.objective)
    return {
        "source": point.source,
        "study": "",
        "variant": spec.variant if spec else "",
        "stage": spec.stage if spec else "clean",
        "dataset": point.dataset,
        "pretrain_objective": point.objective,
        "poisoned": spec.poisoned if spec else True,
        "clean_size": point.clean_size,
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "seed": point.seed,
        "epoch": point.epoch,
        "step": point.step,
        "accuracy": point.accuracy,
        "kept": point.accuracy / start.accuracy if start and start.accuracy else None,
        "asr": point.asr,
        "correct": point.correct,
        "images": point.images,
        "attacked": point.attacked,
        "attackable": point.attackable,
        **{name: drawn and cell in cells for name, cells in PANELS.items()},
        "run": point.run,
    }


def exported(document: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the content of the files that other programs read, by name."""
    tables = document["tables"]
    texts = {
        METRICS: json.dumps(metrics(document), indent=1) + "\n",
        POINTS: as_csv([p for p in points if p["source"] != "archive"], COLUMNS),
        ARCHIVE: as_csv([p for p in points if p["source"] == "archive"], COLUMNS),
        TABLE1: as_csv([_flat(row) for row in tables["table1"]["rows"]]),
        TABLE2: as_csv([_flat(row) for row in tables["table2"]["rows"]]),
        VERDICTS: as_csv(list(verdict_rows(document)), VERDICT_COLUMNS),
    }
    return {name: text.encode() for name, text in texts.items()}


def metrics(document: Mapping[str, Any]) -> dict[str, Any]:
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


VERDICT_COLUMNS = (
    *("fixed", "measure", "setting", "comparator", "unit", "seeds", "mmcl", "mmcl_ssl"),
    *("difference", "low", "high", "at_least", "p", "p_holm", "verdict", "reason"),
)


def verdict_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every verdict of ours with its difference and 95% interval, as rows of verdicts.csv."""
    verdicts = document["verdicts"]
    for group in ("confirmed", "exploratory"):
        for measure in verdicts[group] or []:
            for cell in [*measure["cells"], *([measure["pooled"]] if measure["pooled"] else [])]:
                difference = cell["difference"]
                low, high = difference["interval"] or (None, None)
                yield {
                    "fixed": measure["fixed"],
                    "measure": measure["measure"],
                    "setting": setting_name(cell),
                    "comparator": cell["comparator"],
                    "unit": measure["unit"],
                    "seeds": difference["seeds"],
                    "mmcl": cell["mmcl"]["mean"],
                    "mmcl_ssl": cell["mmcl_ssl"]["mean"],
                    "difference": difference["mean"],
                    "low": low,
                    "high": high,
                    "at_least": difference["at_least"],
                    **{key: cell[key] for key in ("p", "p_holm", "verdict", "reason")},
                }


def setting_name(cell: Mapping[str, Any]) -> str:
    """Return a setting as `cc6m-200k`; `pooled` of all together."""
    return f"{cell['dataset']}-{cell['clean_size']}" if cell["dataset"] else "pooled"


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Return rows as CSV; without rows the columns stand alone."""
    text = io.StringIO()
    names = columns or list(rows[0])
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a row of a table: nested values are named by their path, lists are left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}_")
        elif key in ("ci", "ci95"):
            low, high = value or (None, None)
            flat |= {f"{prefix}{key}_low": low, f"{prefix}{key}_high": high}
        elif not isinstance(value, list):
            flat[prefix + key] = value
    return flat
