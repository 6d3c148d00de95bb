"""Figures 1 to 3 of the paper: zero-shot accuracy against ASR, a dot an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from repro.report.figures.style import (
    BLACK,
    LOSS_COLOURS,
    LOSS_MARKERS,
    Document,
    Drawing,
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


def scatter_panels(name: str, document: Document, points: Points) -> list[Panel]:
    """A panel for each pre-trained model and cleaning size of a figure."""
    shown = [point for point in points if point[name]]
    if not shown:
        return []
    return [
        partial(_panel, document, panel, [point for point in shown if _is_of(point, panel)])
        for panel in document["figures"][name]["panels"]
    ]


def _is_of(point: Mapping[str, Any], panel: Mapping[str, Any]) -> bool:
    keys = ("dataset", "clean_size", "pretrain_objective")
    return all(point[key] == panel[key] for key in keys)


def _panel(document: Document, panel: Mapping[str, Any], points: Points, ax: Axes) -> None:
    settings, paper = document["settings"], panel["paper"]
    # On other data than the paper's, both are shares of their own start.
    shares = bool(document["stand_in"])
    height = "kept" if shares else "accuracy"
    start = 1.0 if shares else (panel["start"] or {}).get("accuracy") or paper["start_accuracy"]
    cap = settings["asr_cap"]
    if start:
        low = settings["kept_share"] * start
        ax.fill_between([0, cap], low, 1.05 * start, color=SUCCESS, alpha=0.25, lw=0)
    threshold_line(ax, cap)

    for theirs in (True, False):
        for loss in LOSSES:
            dots = [p for p in points if p["loss"] == loss and (p["source"] == "authors") == theirs]
            dots = [p for p in dots if p[height] is not None and p["step"] != 0]
            if not dots:
                continue
            ax.scatter(
                [p["asr"] for p in dots],
                [p[height] for p in dots],
                s=9,
                marker=LOSS_MARKERS[loss],
                facecolor="none" if theirs else LOSS_COLOURS[loss],
                edgecolor=LOSS_COLOURS[loss],
                alpha=1 if theirs else 0.6,
                linewidth=0.5 if theirs else 0,
                label=f"finetuned with {label(loss)}" + (" (authors)" if theirs else ""),
            )
    _stars(ax, panel, points, shares)
    if not points:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center")
    # Most of what decides lies near an ASR of 0, so that part has more room.
    ax.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    ax.set(xlim=(0, 1.02), xticks=[0, 0.05, 0.2, 0.5, 1], ylim=(0, None))
    ax.set_title(f"pre-trained with {label(panel['pretrain_objective'])}\n({setting(panel)})")
    ax.set_xlabel("attack success rate (%, square-root scale)")
    ax.set_ylabel("accuracy (% of the start)" if shares else "zero-shot accuracy (%)")
    percent_axis(ax.xaxis, ax.yaxis)


def _stars(ax: Axes, panel: Mapping[str, Any], points: Points, shares: bool) -> None:
    """Mark our start models, the paper's, and the paper's best cleaned model."""
    star: dict[str, Any] = {"marker": "*", "zorder": 5, "clip_on": False}
    starts = [point for point in points if point["step"] == 0 and point["source"] != "authors"]
    if starts:
        asr = fmean(point["asr"] for point in starts)
        height = 1 if shares else fmean(point["accuracy"] for point in starts)
        ax.scatter([asr], [height], s=110, color=BLACK, label="start", **star)
    paper = panel["paper"]
    printed, best = paper["start_accuracy"], paper["clean_accuracy"]
    if printed:
        height = 1 if shares else printed
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": BLACK, "linewidths": 0.8}
        ax.scatter([paper["start_asr"]], [height], s=80, label="start, paper", **star, **hollow)
    if printed and best is not None:
        # The paper prints no ASR for it, only that it is below the threshold.
        height = best / printed if shares else best
        dash: dict[str, Any] = {"marker": "_", "s": 130, "linewidths": 2, "color": BLACK}
        ax.scatter([0.025], [height], label="best cleaned, paper", **dash)


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
