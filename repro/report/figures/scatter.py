"""Figures 1 to 3 of the paper: zero-shot accuracy against ASR, a dot an evaluation."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from repro.report.figures.style import (
    BLACK,
    LOSS_COLOURS,
    LOSS_MARKERS,
    Document,
    Drawing,
    Entry,
    Panel,
    Points,
    percent_axis,
    setting,
    threshold_line,
)
from repro.report.format import label
from repro.report.numbers.cells import LOSSES

SUCCESS = "#2f9e44"
"""Of the region in which a model counts as cleaned without loss."""
CELL = ["dataset", "clean_size", "pretrain_objective"]


def scatter_panels(name: str, document: Document, points: Points) -> list[Panel]:
    """A panel for each pre-trained model and cleaning size of a figure."""
    cells = dict(list(points[points[name]].groupby(CELL)))
    if not cells:
        return []
    none = points[:0]
    return [
        partial(_panel, document, panel, cells.get(tuple(panel[key] for key in CELL), none))
        for panel in document["figures"][name]["panels"]
    ]


def _panel(document: Document, panel: Entry, points: pd.DataFrame, ax: Axes) -> None:
    paper, cap = panel["paper"], document["settings"]["asr_cap"]
    # On other data than the paper's, all accuracies are shares of their own start.
    height = "kept" if document["stand_in"] else "accuracy"
    printed = paper["start_accuracy"]
    unit = printed if document["stand_in"] and printed else 1.0
    began = points[(points.step == 0) & (points.source != "authors")]
    start = began[height].mean() if len(began) else printed and printed / unit
    if start:
        low = document["settings"]["kept_share"] * start
        ax.fill_between([0, cap], low, 1.05 * start, color=SUCCESS, alpha=0.25, lw=0)
    threshold_line(ax, cap)

    after = points[(points.step != 0).fillna(value=True) & points[height].notna()]
    for theirs, loss in product((True, False), LOSSES):
        dots = after[(after.loss == loss) & ((after.source == "authors") == theirs)]
        if dots.empty:
            continue
        style: dict[str, Any] = {"color": LOSS_COLOURS[loss], "alpha": 0.6, "linewidth": 0}
        if theirs:
            style = {"facecolor": "none", "edgecolor": LOSS_COLOURS[loss], "linewidth": 0.5}
        name = f"finetuned with {label(loss)}" + " (authors)" * theirs
        ax.scatter(dots.asr, dots[height], s=9, marker=LOSS_MARKERS[loss], label=name, **style)

    star: dict[str, Any] = {"marker": "*", "zorder": 5, "clip_on": False}
    if len(began):
        ax.scatter(began.asr.mean(), start, s=110, color=BLACK, label="start", **star)
    if printed:
        star |= {"facecolors": "none", "edgecolors": BLACK, "linewidths": 0.8}
        ax.scatter(paper["start_asr"], printed / unit, s=80, label="start, paper", **star)
        if (best := paper["clean_accuracy"]) is not None:
            # The paper prints no ASR for it, only that it is below the threshold.
            dash: dict[str, Any] = {"marker": "_", "s": 130, "linewidths": 2, "color": BLACK}
            ax.scatter(cap / 2, best / unit, label="best cleaned, paper", **dash)
    if points.empty:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center")
    # Most of what decides lies near an ASR of 0, so that part has more room.
    ax.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    ax.set(xlim=(0, 1.02), xticks=[0, 0.05, 0.2, 0.5, 1], ylim=(0, None))
    ax.set_title(f"pre-trained with {label(panel['pretrain_objective'])}\n({setting(panel)})")
    ax.set_xlabel("attack success rate (%, square-root scale)")
    ax.set_ylabel("accuracy (% of the start)" if height == "kept" else "zero-shot accuracy (%)")
    percent_axis(ax.xaxis, ax.yaxis)


CAPTIONS = {
    "figure1": "Accuracy and ASR of all evaluations during finetuning of the models of CC3M.",
    "figure2": "The same for the models of CC6M.",
    "figure3": "100K against 200K cleaning pairs: the models of CC6M that were pre-trained with "
    "MMCL + SSL, and those pre-trained with MMCL, which the paper does not have at 200K.",
}
SCATTERS = tuple(
    Drawing(name, "index.html", text, partial(scatter_panels, name))
    for name, text in CAPTIONS.items()
)
