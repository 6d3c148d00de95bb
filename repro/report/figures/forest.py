"""The verdicts over seeds as a forest plot: a panel a measure, a row a setting and comparator."""

from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from repro.report.figures.style import (
    BLACK,
    OBJECTIVE_COLOURS,
    PAPER_COLOUR,
    Drawing,
    Panel,
    Points,
    finding_title,
    percent_axis,
)
from repro.report.format import bounds, factor
from repro.report.reading import Document, Entry, Strip, strips

BEYOND = {"at_least": ">", "at_most": "<"}
"""Marker of a mean of bounds, by its side."""


def forest_panels(document: Document, _points: Points) -> list[Panel]:
    """One panel a measure that is drawn: all but the one in logits."""
    return [partial(_panel, strip) for strip in strips(document)]


def _panel(strip: Strip, ax: Axes) -> None:
    doublings = strip.unit == "doublings"
    ax.axvline(0, color=BLACK, lw=0.8)
    for place, row in enumerate(strip.rows):
        found: Entry = row.difference
        colour = BLACK if row.pooled else OBJECTIVE_COLOURS["mmcl_ssl"]
        if found["interval"]:
            ax.hlines(-place, *found["interval"], color=colour, lw=1.6)
        marker = "D" if row.pooled else "o"
        if row.paper is not None:
            ax.plot(row.paper, -place, "|", color=PAPER_COLOUR, ms=11, mew=2, label="the paper")
        ax.plot(
            found["mean"],
            -place,
            marker,
            color=colour,
            ms=6 if row.pooled else 5,
            mfc=colour if row.main else "none",
        )
        value = factor(found["mean"]) if doublings else f"{100 * found['mean']:+.1f}"
        ax.annotate(
            bounds(found) + value.replace("-", "−"),
            (1.02, -place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=colour,
        )
    ax.set_yticks([-place for place in range(len(strip.rows))], [row.name for row in strip.rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0.6 - len(strip.rows), 0.6)
    ax.spines["left"].set_visible(False)
    finding_title(ax, f"{strip.title}\n{strip.says}")
    if doublings:
        ax.set_xlabel("MMCL + SSL over MMCL (times)")
        low, high = (round(end) for end in ax.get_xlim())
        whole = range(min(0, low), high + 1)
        ax.set_xticks([*whole], [f"{2.0**tick:g}" for tick in whole])
    else:
        ax.set_xlabel("MMCL + SSL less MMCL (points)")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        percent_axis(ax.xaxis)


FOREST = Drawing(
    "forest",
    "index.html",
    "Differences of MMCL + SSL less MMCL: means over seeds with 95% intervals. Filled dots are "
    "against the profile's MMCL models, open ones against other comparators, diamonds the mean of "
    "the settings. Grey ticks are the paper's values; those of the learning rate are inferred from "
    "the order of its authors' points.",
    forest_panels,
    columns=2,
    height=2.9,
    width=4.2,
)
