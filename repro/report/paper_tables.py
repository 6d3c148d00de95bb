"""Tables 1 and 2 and Figures 1 to 3: the paper's values, the authors' points and ours.

Each number of ours names its run; the interval beside it is Wilson's at 95% over the images.
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from repro.intervals import wilson
from repro.report.cells import CELLS, CLEANCLIP, DATASETS, OBJECTIVES, PANELS, Cell
from repro.report.claims import Paper
from repro.report.evidence import Evidence
from repro.report.measures import best_under_cap
from repro.report.points import PRINTED, start_models
from repro.spec import Dataset, Objective

Evaluation = Mapping[str, Any]
"""A row of the table of evaluations; empty where there is none."""


def table1(evidence: Evidence, paper: Paper) -> list[dict[str, Any]]:
    """Accuracy before, and the best after CleanCLIP at the ASR threshold: one row a cell.

    Ours is the first seed.
    """
    rows = []
    for cell in CELLS:
        start = _start(evidence, cell.dataset, cell.pretrain_objective)
        authors = _first(_of(evidence.authors_frame, cell, started=False))
        original = _number(paper.cleaned(*cell).original_accuracy, start, authors)
        cleaned = _cleaned(evidence, paper, cell, start)
        rows.append({**cell._asdict(), "original_accuracy": original, "clean_accuracy": cleaned})
    return rows


def _cleaned(evidence: Evidence, paper: Paper, cell: Cell, start: Evaluation) -> dict[str, Any]:
    """The best evaluation at the threshold of a cell, and what it was chosen from."""
    cap = evidence.profile.evaluate.asr_cap
    points = _of(evidence.frame, cell, started=True)
    first = points[points.seed == evidence.profile.pretrain.seeds[0]]
    best = _best(first, cap)
    authors = _best(_of(evidence.authors_frame, cell, started=True), cap)
    # A run's name tells its cleaning size and loss (`RunSpec.run_id`).
    name = f"/clean/{cell.dataset}-{cell.pretrain_objective}/{cell.clean_size}-{CLEANCLIP}-lr"
    return {
        **_number(paper.cleaned(*cell).clean_accuracy, best, authors),
        "asr": best.get("asr"),
        "learning_rate": best.get("learning_rate"),
        "epoch": best.get("epoch"),
        "row": best.get("index"),
        "asr_ci95": wilson(best["attacked"], best["attackable"]) if best else None,
        "authors_asr": authors.get("asr"),
        "authors_drop": _drop(authors_start(evidence, paper, cell), authors),
        "relative_drop": _drop(start, best),
        "evaluations": len(first),
        "successes": int((first.asr <= cap).sum()),
        "runs": first.run.nunique(),
        "diverged_runs": first.run[first.diverged.astype(bool)].nunique(),
        "lowest_asr": first.asr.min(),
        "missing": sum(name in folder for folder in evidence.missing),
    }


def table2(evidence: Evidence, paper: Paper) -> list[dict[str, Any]]:
    """Accuracy and ASR of the models before cleaning: one row a model."""
    rows = []
    for dataset, objective in product(DATASETS, OBJECTIVES):
        printed = paper.start(dataset, objective)
        start = _start(evidence, dataset, objective)
        # A start model does not depend on the cleaning size; all were cleaned with 100K pairs.
        cell = Cell(dataset, "100k", objective)
        authors = _first(_of(evidence.authors_frame, cell, started=False))
        row: dict[str, Any] = {"dataset": dataset, "pretrain_objective": objective}
        for measure in ("accuracy", "asr"):
            row[measure] = _number(getattr(printed, measure), start, authors, measure)
        rows.append(row)
    return rows


def figures(paper: Paper) -> dict[str, dict[str, Any]]:
    """`figure1` to `figure3`: what the paper prints of the cells of each."""
    return {
        name: {"panels": [_panel(paper, cell) for cell in cells]} for name, cells in PANELS.items()
    }


def _panel(paper: Paper, cell: Cell) -> dict[str, Any]:
    """What the paper prints of a cell."""
    printed = paper.start(cell.dataset, cell.pretrain_objective)
    return {
        **cell._asdict(),
        "paper": {
            "start_accuracy": printed.accuracy,
            "start_asr": printed.asr,
            "clean_accuracy": paper.cleaned(*cell).clean_accuracy,
        },
    }


def _start(evidence: Evidence, dataset: Dataset, objective: Objective) -> Evaluation:
    """The model that is cleaned, of the profile's first seed."""
    starts = start_models(evidence.frame)
    models = starts[(starts.dataset == dataset) & (starts.pretrain_objective == objective)]
    seed = evidence.profile.pretrain.seeds[0]
    return _first(models[models.seed == seed])


def authors_start(evidence: Evidence, paper: Paper, cell: Cell) -> Evaluation:
    """The start model of the authors' points of a cell; empty where there are no points of it.

    Their CC6M files hold no evaluation of it: then it is what the paper prints in Table 2, as
    counts of the authors' images.
    """
    measured = _first(_of(evidence.authors_frame, cell, started=False))
    like = _first(_of(evidence.authors_frame, cell, started=True))
    if measured or not like:
        return measured
    printed = paper.start(cell.dataset, cell.pretrain_objective)
    correct = round(printed.accuracy * like["num_images"])
    attacked = round(printed.asr * like["attackable"])
    return {
        **like,
        "step": 0,
        "num_correct": correct,
        "accuracy": correct / like["num_images"],
        "attacked": attacked,
        "asr": attacked / like["attackable"],
        "run": PRINTED,
        "index": 0,
    }


def authors_kept(evidence: Evidence, paper: Paper) -> list[float]:
    """The accuracy of each of the authors' points as a share of its start model's."""
    starts = {
        cell: authors_start(evidence, paper, cell).get("accuracy", math.nan) for cell in CELLS
    }
    points = evidence.authors_frame
    cells = points[[*Cell._fields]].itertuples(index=False, name=None)
    return [of / starts[Cell(*cell)] for of, cell in zip(points.accuracy, cells, strict=True)]


def _of(frame: pd.DataFrame, cell: Cell, *, started: bool) -> pd.DataFrame:
    """Evaluations of a cell's runs of CleanCLIP, before cleaning or after it has `started`."""
    of_cell = (frame[[*Cell._fields]] == [*cell]).all(axis=1)
    of_cell &= (frame.stage == "clean") & (frame.loss == CLEANCLIP)
    # A step that the authors do not tell is after the start as well.
    of_cell &= (frame.step != 0) == started
    return frame[of_cell]


def _first(frame: pd.DataFrame) -> Evaluation:
    return frame.iloc[0].to_dict() if len(frame) else {}


def _best(frame: pd.DataFrame, cap: float) -> Evaluation:
    best = best_under_cap(frame, cap)
    return {} if best is None else best.to_dict()


def _drop(start: Evaluation, best: Evaluation) -> float | None:
    """Share of the start accuracy that `best` has lost."""
    if not best or not start.get("num_correct"):
        return None
    # Of other images where the best was evaluated within an epoch (`images_between`).
    share = start["num_images"] / best["num_images"]
    return float(1 - best["num_correct"] / start["num_correct"] * share)


def _number(
    paper: float | None, ours: Evaluation, authors: Evaluation, measure: str = "accuracy"
) -> dict[str, Any]:
    """The paper's value of a measure, the authors' points and ours, of `n` images."""
    of_attack = ("attacked", "attackable")
    count, images = of_attack if measure == "asr" else ("num_correct", "num_images")
    return {
        "paper": paper,
        "authors_points": authors.get(measure),
        "reproduced": ours.get(measure),
        "delta": ours[measure] - paper if ours and paper is not None else None,
        "ci95": wilson(ours[count], ours[images]) if ours else None,
        "n": ours.get(images),
        "run": ours.get("run"),
        "diverged": bool(ours.get("diverged", False)),
    }
