"""What pages show of single runs and evaluations: what the script reads, printed as it stands, and
the curve, evaluations and origin of each run of the report.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from repro.report.cells import CLEANCLIP
from repro.report.figures.scatter import best_of_seeds
from repro.report.figures.style import OBJECTIVE_COLOURS
from repro.report.format import label, rate, short
from repro.report.pages.table import Column, Table
from repro.report.pages.tables import run_anchor, share, thresholds
from repro.report.reading import Document, Entry, runs_of, setting_words


@dataclass(frozen=True)
class Cloud:
    """All evaluations of CleanCLIP on the models of one cell, as the explorer draws them."""

    title: str
    colour: str
    height: str
    """What the y axis has."""
    runs: list[tuple[str, str, int]]
    """Of each run its words, its folder and its seed."""
    dots: list[tuple[int, int, float, int]]
    """Of each evaluation ASR and height in hundredths of a percent, epoch, and place of its run."""
    best: list[int]
    """Places of the most accurate evaluation of each seed at the threshold."""
    paper: float | None
    """Height of the paper's best cleaned model, in percent."""


def data_of(document: Document, clouds: Sequence[Cloud]) -> str:
    """JSON for a `<script type="application/json">`; no text in it can end the element."""
    content = {"thresholds": _thresholds(document), "clouds": [asdict(cloud) for cloud in clouds]}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _thresholds(document: Document) -> list[dict[str, Any]]:
    """By setting, the cells of the table of thresholds at each threshold, as it prints them."""
    rows: dict[str, dict[str, list[str]]] = {}
    for cap in document["resistance"]["caps"]:
        for setting, *cells in thresholds(document, cap).cells():
            rows.setdefault(str(setting), {})[short(cap)] = [str(cell) for cell in cells]
    return [{"setting": setting, "rows": by_cap} for setting, by_cap in rows.items()]


def clouds(document: Document, points: pd.DataFrame) -> list[Cloud]:
    """One for each cell of Figures 1 to 3 that has evaluations of ours."""
    panels = [panel for figure in document["figures"].values() for panel in figure["panels"]]
    names = ["dataset", "clean_size", "pretrain_objective"]
    cells = {tuple(panel[name] for name in names): panel for panel in panels}
    ours = points[(points.loss == CLEANCLIP) & (points.step > 0) & (points.source != "authors")]
    drawn = ours[ours.figure1 | ours.figure2 | ours.figure3]
    found = []
    for cell, panel in cells.items():
        of_cell = drawn[(drawn[names] == list(cell)).all(axis=1)]
        if len(of_cell):
            found.append(_cloud(document, panel, of_cell))
    return found


def _cloud(document: Document, panel: Entry, points: pd.DataFrame) -> Cloud:
    column = "kept" if document["stand_in"] else "accuracy"
    points = points[points[column].notna()].sort_values(["run", "step"])
    places = {run: place for place, run in enumerate(points.run.unique())}
    best = best_of_seeds(points, document["settings"]["asr_cap"])
    runs = points.drop_duplicates("run")
    printed, start = panel["paper"]["clean_accuracy"], panel["paper"]["start_accuracy"]
    unit = start if document["stand_in"] else 1.0
    return Cloud(
        title=f"{setting_words(panel)} pairs, {label(panel['pretrain_objective'])}",
        colour=OBJECTIVE_COLOURS[panel["pretrain_objective"]],
        height="accuracy (% of the start)" if column == "kept" else "zero-shot accuracy (%)",
        runs=[(_run_words(row), row.run, int(row.seed)) for row in runs.itertuples()],
        dots=[
            (round(1e4 * row.asr), round(1e4 * getattr(row, column)), row.epoch, places[row.run])
            for row in points.itertuples()
        ],
        best=sorted(int(points.index.get_loc(index)) for index in best.index),
        paper=None if printed is None else round(100 * printed / unit, 2),
    )


def _run_words(row: Any) -> str:
    own = "your run, " if row.source == "ledger" else ""
    return f"{own}seed {row.seed}, learning rate {rate(row.learning_rate)}"


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
    Column("Epoch", "epoch", lambda epoch: f"{epoch:g}"),
    Column("Step", "step", lambda step: f"{int(step)}", number=True),
    share("Accuracy (%)", "accuracy"),
    share("ASR (%)", "asr"),
    Column("MMCL loss", "loss_mmcl", _loss, number=True),
    Column("SSL loss", "loss_ssl", _loss, number=True),
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
