"""What the pages' script reads: numbers as they are printed, so that it computes none."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from repro.report.cells import CLEANCLIP
from repro.report.figures.style import OBJECTIVE_COLOURS
from repro.report.format import amount, label, percent, rate, short
from repro.report.reading import Document, Entry, setting_words

OBJECTIVES = ("mmcl", "mmcl_ssl")


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
    cells = [thresholds(cell) for cell in document["resistance"]["cells"] if cell["thresholds"]]
    content = {"thresholds": cells, "clouds": [asdict(cloud) for cloud in clouds]}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


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
    allowed = points[points.asr <= document["settings"]["asr_cap"]]
    best = allowed.sort_values("accuracy", ascending=False).drop_duplicates(["source", "seed"])
    runs = points.drop_duplicates("run")
    printed, start = panel["paper"]["clean_accuracy"], panel["paper"]["start_accuracy"]
    unit = start if document["stand_in"] else 1.0
    return Cloud(
        title=f"{setting_words(panel)} pairs, {label(panel['pretrain_objective'])}",
        colour=OBJECTIVE_COLOURS[panel["pretrain_objective"]],
        height="accuracy (% of the start)" if column == "kept" else "zero-shot accuracy (%)",
        runs=[
            (
                f"{'your run, ' * (row.source == 'ledger')}seed {row.seed}, learning rate "
                f"{rate(row.learning_rate)}",
                row.run,
                int(row.seed),
            )
            for row in runs.itertuples()
        ],
        dots=[
            (round(1e4 * row.asr), round(1e4 * getattr(row, column)), row.epoch, places[row.run])
            for row in points.itertuples()
        ],
        best=sorted(int(points.index.get_loc(index)) for index in best.index),
        paper=None if printed is None else round(100 * printed / unit, 2),
    )


def thresholds(cell: Entry) -> dict[str, Any]:
    """The cells of the table by ASR threshold in one setting, each text as the table has it."""
    return {
        "setting": setting_words(cell),
        "rows": {short(of["cap"]): threshold_cells(of) for of in cell["thresholds"]},
    }


def threshold_rows(document: Document) -> dict[str, list[str]]:
    """The table as it stands before the slider moves: by setting, at the profile's threshold."""
    cap = short(document["settings"]["asr_cap"])
    return {
        of["setting"]: of["rows"][cap]
        for of in map(thresholds, document["resistance"]["cells"])
        if cap in of["rows"]
    }


def threshold_cells(of: Entry) -> list[str]:
    """Cleaned models, accuracy and share lost of both objectives, and the difference."""
    accuracy = of["accuracy"]
    known = accuracy["mmcl"] is not None
    difference = accuracy["mmcl_ssl"] - accuracy["mmcl"] if known else None
    return [
        *(str(of["cleaned"][name]) for name in OBJECTIVES),
        *(percent(accuracy[name]) for name in OBJECTIVES),
        "–" if difference is None else amount(difference, "fraction", signed=True),
        *(percent(of["lost"][name]) for name in OBJECTIVES),
    ]


HEADS = (
    *(f"{head}: {label(name)}" for head in ("Cleaned", "Accuracy (%)") for name in OBJECTIVES),
    "Difference (points)",
    *(f"Lost (%): {label(name)}" for name in OBJECTIVES),
)
"""Of the table by ASR threshold."""
