"""Figures 1 to 3 of the paper: zero-shot accuracy against ASR, a dot an evaluation."""

from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from repro.report.figures.style import (
    BLACK,
    LOSS_COLOURS,
    LOSS_MARKERS,
    THRESHOLD,
    Document,
    Drawing,
    Entry,
    Panel,
    Points,
    percent_axis,
    setting,
)
from repro.report.format import label
from repro.report.numbers.cells import LOSSES, Cell

SUCCESS = "#2f9e44"
"""Of the region in which a model counts as cleaned without loss."""


def scatter_panels(name: str, document: Document, points: Points) -> list[Panel]:
    """A panel for each pre-trained model and cleaning size of a figure."""
    drawn = points[points[name]]
    if drawn.empty:
        return []
    keys, panels = [*Cell._fields], document["figures"][name]["panels"]
    cells = [(drawn[keys] == [panel[key] for key in keys]).all(axis=1) for panel in panels]
    return [
        partial(_panel, document, panel, drawn[cell])
        for panel, cell in zip(panels, cells, strict=True)
    ]


def _panel(document: Document, panel: Entry, points: pd.DataFrame, ax: Axes) -> None:
    paper, cap = panel["paper"], document["settings"]["asr_cap"]
    # On other data than the paper's, all accuracies are shares of their own start.
    height = "kept" if document["stand_in"] else "accuracy"
    printed = paper["start_accuracy"]
    unit = printed if document["stand_in"] else 1.0
    began = points[(points.step == 0) & (points.source != "authors")]
    start = began[height].mean() if len(began) else printed / unit
    if start:
        low = document["settings"]["kept_share"] * start
        ax.fill_between([0, cap], low, 1.05 * start, color=SUCCESS, alpha=0.25, lw=0)
    ax.axvline(cap, **THRESHOLD)

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

    star = partial(ax.scatter, marker="*", zorder=5, clip_on=False)
    if len(began):
        star(began.asr.mean(), start, s=110, color=BLACK, label="start")
    star(
        paper["start_asr"],
        printed / unit,
        s=80,
        facecolors="none",
        edgecolors=BLACK,
        lw=0.8,
        label="start, paper",
    )
    if (best := paper["clean_accuracy"]) is not None:
        # The paper prints no ASR for it, only that it is below the threshold.
        name = "best cleaned, paper"
        ax.scatter(cap / 2, best / unit, s=130, marker="_", color=BLACK, lw=2, label=name)
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
    "figure1": "The dots are accuracy and ASR of all evaluations during finetuning of the models "
    "of CC3M.",
    "figure2": "The panels show the same for the models of CC6M.",
    "figure3": "The panels compare 100K with 200K cleaning pairs, for the models of CC6M that were "
    "pre-trained with MMCL + SSL, and those with MMCL, which the paper does not have at 200K.",
}
SCATTERS = tuple(
    Drawing(name, "index.html", text, partial(scatter_panels, name))
    for name, text in CAPTIONS.items()
)
