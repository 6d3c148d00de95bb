"""Figures 1 to 3 of the paper: zero-shot accuracy against ASR, a dot an evaluation."""

from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from repro.report.cells import CLEANCLIP, LOSSES, Cell
from repro.report.figures.style import (
    BLACK,
    CLEANED,
    LOSS_COLOURS,
    LOSS_MARKERS,
    OBJECTIVE_COLOURS,
    PAPER_COLOUR,
    THRESHOLD,
    Drawing,
    Panel,
    Points,
    percent_axis,
    setting,
)
from repro.report.format import label
from repro.report.reading import Document, Entry


def scatter_panels(name: str, document: Document, points: Points) -> list[Panel]:
    """A panel for each pre-trained model and cleaning size of a figure."""
    drawn = points[points[name]]
    if drawn.empty:
        return []
    keys = [*Cell._fields]
    found: list[Panel] = []
    for panel in document["figures"][name]["panels"]:
        of_cell = (drawn[keys] == [panel[key] for key in keys]).all(axis=1)
        found.append(partial(_panel, document, panel, drawn[of_cell]))
    return found


def _panel(document: Document, panel: Entry, points: pd.DataFrame, ax: Axes) -> None:
    paper = panel["paper"]
    cap = document["settings"]["asr_cap"]
    printed = paper["start_accuracy"]
    height, unit = "accuracy", 1.0
    # On other data than the paper's, all accuracies are shares of their own start.
    if document["stand_in"]:
        height, unit = "kept", printed
    began = points[(points.step == 0) & (points.source != "authors")]
    start = began[height].mean() if len(began) else printed / unit
    if start:
        low = document["settings"]["kept_share"] * start
        ax.fill_between([0, cap], low, 1.05 * start, color=CLEANED, alpha=0.25, lw=0)
    ax.axvline(cap, **THRESHOLD)

    after = points[(points.step != 0).fillna(value=True) & points[height].notna()]
    _dots(after, height, OBJECTIVE_COLOURS[panel["pretrain_objective"]], ax)
    own = after[(after.loss == CLEANCLIP) & (after.source != "authors")]
    best = best_of_seeds(own, cap)
    if len(best):
        name = "best cleaned, each seed"
        ring: dict[str, Any] = {"facecolor": "none", "edgecolor": BLACK, "lw": 1.2, "zorder": 6}
        ax.scatter(best.asr, best[height], s=42, label=name, **ring)

    star = partial(ax.scatter, marker="*", zorder=5, clip_on=False)
    if len(began):
        star(began.asr.mean(), start, s=110, color=BLACK, label="start")
    grey: dict[str, Any] = {"facecolors": "none", "edgecolors": PAPER_COLOUR, "lw": 1}
    star(paper["start_asr"], printed / unit, s=80, label="start, paper", **grey)
    if (theirs := paper["clean_accuracy"]) is not None:
        # The paper prints no ASR for it, only that it is below the threshold.
        mark: dict[str, Any] = {"marker": "D", "color": PAPER_COLOUR, "zorder": 6}
        ax.scatter(cap / 2, theirs / unit, s=36, label="best cleaned, paper", **mark)
    if points.empty:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center")
    ax.set_title(f"pre-trained with {label(panel['pretrain_objective'])} ({setting(panel)})")
    ax.set_ylabel("accuracy (% of the start)" if height == "kept" else "zero-shot accuracy (%)")
    _axes(ax)


def _axes(ax: Axes) -> None:
    # Most of what decides lies near an ASR of 0, so that part has more room.
    ax.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    ax.set(xlim=(0, 1.02), xticks=[0, 0.05, 0.2, 0.5, 1], ylim=(0, None))
    ax.set_xlabel("attack success rate (%, square-root scale)")
    percent_axis(ax.xaxis, ax.yaxis)


def _dots(points: pd.DataFrame, height: str, cleanclip: str, ax: Axes) -> None:
    """A dot for each evaluation, by source and loss; `cleanclip` is CleanCLIP's colour."""
    archived = (points.source == "archive").any()
    for source, loss in product(("authors", "archive", "ledger"), LOSSES):
        dots = points[(points.loss == loss) & (points.source == source)]
        if dots.empty:
            continue
        name = "CleanCLIP" if loss == CLEANCLIP else f"finetuned with {label(loss)}"
        colour = LOSS_COLOURS.get(loss, cleanclip)
        style: dict[str, Any] = {"color": colour, "alpha": 0.5, "linewidth": 0}
        if source == "authors":
            name = "authors"
            style = {"facecolor": "none", "edgecolor": PAPER_COLOUR, "lw": 0.5}
        elif source == "ledger" and archived:
            name += ", your run"
            style = {"color": colour, "edgecolor": BLACK, "lw": 0.7}
        ax.scatter(dots.asr, dots[height], s=9, marker=LOSS_MARKERS[loss], label=name, **style)


def best_of_seeds(points: pd.DataFrame, cap: float) -> pd.DataFrame:
    """The most accurate evaluation of each seed at the ASR threshold."""
    allowed = points[points.asr <= cap].sort_values("accuracy", ascending=False)
    return allowed.drop_duplicates(["source", "seed"])


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
