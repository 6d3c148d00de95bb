"""What the page of the own runs shows of each: its curve, its evaluations and where it is from."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from repro.report.format import percent
from repro.report.pages.table import Column, Table
from repro.report.pages.tables import run_anchor
from repro.report.reading import Document, Entry, runs_of

WIDTH, HEIGHT = 300.0, 110.0
"""Of a curve, in units of its drawing."""


@dataclass(frozen=True)
class RunShown:
    """A run of the report itself."""

    folder: str
    anchor: str
    record: Entry
    curves: dict[str, str]
    """Points of a polyline by name: accuracy and ASR over the steps."""
    table: Table


def runs_shown(document: Document, points: pd.DataFrame) -> list[RunShown]:
    """The runs of the report that have evaluations, in the order of their folders."""
    by_run = dict(list(points[points.source == "ledger"].groupby("run")))
    return [
        RunShown(
            folder,
            run_anchor(folder),
            record,
            {name: _curve(by_run[folder], column) for name, column in CURVES.items()},
            Table(
                f"run-{run_anchor(folder)}",
                f"Evaluations of {run_anchor(folder)}",
                COLUMNS,
                list(_rows(by_run[folder])),
            ).filled(),
        )
        for folder, record in runs_of(document)["here"].items()
        if folder in by_run
    ]


CURVES = {"accuracy": "accuracy", "ASR": "asr"}


def _loss(value: float) -> str:
    return f"{value:.3f}"


COLUMNS = (
    Column("Epoch", lambda row: row["epoch"], lambda epoch: f"{epoch:g}"),
    Column("Step", lambda row: row["step"], lambda step: f"{int(step)}", number=True),
    Column("Accuracy (%)", lambda row: row["accuracy"], percent, number=True),
    Column("ASR (%)", lambda row: row["asr"], percent, number=True),
    Column("MMCL loss", lambda row: row["loss_mmcl"], _loss, number=True),
    Column("SSL loss", lambda row: row["loss_ssl"], _loss, number=True),
)


def _rows(points: pd.DataFrame) -> Iterator[Entry]:
    names = ["epoch", "step", "accuracy", "asr", "loss_mmcl", "loss_ssl"]
    ordered = points.sort_values("step")[names].astype(object)
    yield from ordered.where(ordered.notna(), None).to_dict("records")


def _curve(points: pd.DataFrame, column: str) -> str:
    ordered = points.sort_values("step")
    steps = ordered.step.astype(float)
    across = WIDTH * steps / max(float(steps.max()), 1.0)
    down = HEIGHT * (1 - ordered[column].astype(float))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
