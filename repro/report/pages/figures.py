"""The answer and Figures 1-3; documents in, figures out, no file access and no statistics.

Figures 1-3 are the paper's scatter plots: x = ASR, y = zero-shot top-1, a panel per pre-trained
model, colour and shape per finetuning loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.report.format import label, tick
from repro.report.numbers.cells import LOSSES
from repro.report.pages.drawing import (
    BLACK,
    COLOURS,
    MARKERS,
    START,
    WIDTH,
    cap_line,
    columns,
    percent_axes,
)

CAPTIONS = {
    "figure1": "Figure 1. Accuracy and ASR during finetuning of the CC3M models.",
    "figure2": "Figure 2. The same for the CC6M models.",
    "figure3": "Figure 3. 100K against 200K cleaning pairs for the CC6M model of MMCL + SSL "
    "(above), and our control for MMCL (below).",
    "sweep": "How the result depends on the cap: best accuracy after CleanCLIP, as a share of the "
    "start, among evaluations with at most the ASR on the x axis.",
    "budgets": "What the search buys: median best accuracy at the cap after trying n learning "
    "rates, with a simultaneous band; 0 where none met the cap. Where the band would span all "
    "values, as with few rates, none is drawn. The grid's rates count as random draws.",
    "resistance": "How far models resist CleanCLIP (ours, not the paper's). Left: ASR at the end "
    "of runs of equal rate and steps, a dot a seed, lines through the means, diamonds where a seed "
    "crosses the cap. Right: best accuracy for an ASR that one allows, mean over seeds.",
    "trajectories": "Accuracy and ASR over epochs: pre-training, and CleanCLIP with 100K pairs by "
    "learning rate (dark: smallest).",
    "responses": "What the studies measured over a number that they vary: one dot a seed, lines "
    "through the means; a cross at the bottom where no rate reached the cap on some seed, which "
    "is in no mean.",
}
"""What each figure shows; the paper's own come first."""
SIGNIFICANT = 0.10
"""Share of accuracy lost that the claims file calls significant."""
PANEL_KEYS = ("dataset", "clean_size", "pretrain_objective")
STEP = 0.22
"""Between the marks of one row of the answer: paper, authors' points, ours."""


def captions(document: Mapping[str, Any]) -> dict[str, str]:
    """The figures that a document has, and what each shows."""
    # A figure without anything to draw is left out.
    empty = {
        "responses": not document["doses"],
        "resistance": not document["resistance"]["cells"],
    }
    return {name: text for name, text in CAPTIONS.items() if not empty.get(name)}


def scatter(document: Mapping[str, Any], name: str) -> Figure:
    """Figure 1, 2 or 3."""
    shown = document["figures"][name]
    panels, settings = shown["panels"], document["settings"]

    # Two panels a row; Figure 3 has two rows, which are made lower to fit one page.
    rows = -(-len(panels) // 2)
    height = (3.0 if rows == 1 else 2.35) * rows + 0.55
    figure = Figure(figsize=(2 * WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)

    for index, (panel, ax) in enumerate(zip(panels, axes.flat, strict=True)):
        # The id of a panel is the figure's name and a number, by which the page finds its marks.
        points = [point for point in shown["points"] if _is_of(panel, point)]
        _panel(ax, f"{name}-{index}", panel, points, settings)

    # One scale for all panels; ASR from 0 to 1, with room for marks on the frame.
    top = _highest(shown)
    axes[0, 0].set(xlim=(-0.04, 1.04), ylim=(-0.05 * top, 1.12 * top))
    percent_axes(axes)

    # The paper's data and stand-ins must not be taken for one another where a figure is cut out.
    stand_in = ", reproduced on stand-in data" if document["stand_in"] else ""
    figure.supxlabel(f"Attack success rate (%){stand_in}", fontsize=9)
    figure.supylabel("Zero-shot top-1 accuracy (%)", fontsize=9)
    figure.legend(
        handles=_scatter_legend(shown),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=7.5,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    return figure


def hardly_any(document: Mapping[str, Any]) -> float:
    """Share of the start accuracy whose loss counts as hardly any: what may go where
    `kept_share` of specs/claims.yaml is to stay.
    """
    lost: float = 1 - document["settings"]["kept_share"]
    return lost


def answer(document: Mapping[str, Any]) -> Figure:
    """Accuracy lost by the best cleaned model of every cell: paper, authors' points, and ours."""
    rows = document["tables"]["table1"]["rows"]
    figure = Figure(figsize=(2 * WIDTH, 2.75), layout="constrained")
    ax = figure.subplots()

    # Green to hardly any loss, red from a significant one on: the words of the claims file.
    ax.axvspan(-0.6, hardly_any(document), color=COLOURS["mmcl_ssl"], alpha=0.13, lw=0)
    ax.axvspan(SIGNIFICANT, 1.1, color=START, alpha=0.08, lw=0)
    for y, row in enumerate(rows):
        _answer_row(ax, y, row)

    # Gains are negative losses: the axis reaches to the lowest interval, but not below -0.6.
    low = min([-0.1, *(end - 0.03 for row in rows for end in _ends(row))])
    ax.set(
        xlim=(max(low, -0.6), 1.03),
        # Upside down, so that the first row of Table 1 is on top.
        ylim=(len(rows) - 0.45, -0.55),
        xlabel="Share of the start accuracy lost (%)",
        ylabel="",
    )
    ax.set_yticks(
        range(len(rows)), [", ".join(label(row[key]) for key in PANEL_KEYS) for row in rows]
    )
    ax.tick_params(axis="y", length=0)

    # A line after every pair of objectives, which are compared with each other.
    for y in range(2, len(rows), 2):
        ax.axhline(y - 0.5, color=BLACK, lw=0.4, alpha=0.4)
    ax.xaxis.set_major_formatter(tick)
    figure.legend(
        handles=_answer_legend(document),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
        handletextpad=0.3,
    )
    return figure


def _panel(
    ax: Axes,
    gid: str,
    panel: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    """One pre-trained model: region of success, marks of its evaluations, start and paper."""
    cap = settings["asr_cap"]

    # Groups in a fixed order; the authors' marks are hollow and lie behind ours.
    _success_region(ax, gid, _anchor(panel, points), settings)
    cap_line(ax, cap, f"{gid}-cap")
    for (source, loss, seed), group in _groups(points).items():
        hollow = source == "authors"
        seaborn.scatterplot(
            data=columns(group, "asr", "accuracy"),
            x="asr",
            y="accuracy",
            ax=ax,
            s=11 if hollow else 13,
            marker=MARKERS[loss],
            facecolor="none" if hollow else COLOURS[loss],
            edgecolor=COLOURS[loss],
            linewidth=0.5 if hollow else 0.3,
            alpha=0.5 if hollow else 0.8,
            # By this id the page hides a loss or a seed.
            gid=f"{gid}-{source}-{loss}-{'x' if seed is None else seed}",
            zorder=2 if hollow else 3,
        )

    _stars(ax, gid, panel, cap)
    title = f"{label(panel['dataset'])}, pre-trained with {label(panel['pretrain_objective'])}"
    ax.set_title(f"{title}, {label(panel['clean_size'])} pairs", fontsize=7.5)
    ax.set(xlabel="", ylabel="")
    if not points:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center")


def _success_region(ax: Axes, gid: str, start: float | None, settings: Mapping[str, Any]) -> None:
    """ASR at the cap and accuracy nearly that of the start."""
    if not start:
        return

    # Up to above the start, for finetuning may gain accuracy.
    cap = settings["asr_cap"]
    low, high = settings["kept_share"] * start, 1.3 * start
    ax.fill_between([0, cap], low, high, color=START, alpha=0.13, lw=0, gid=f"{gid}-region")
    corners = ([0, cap, cap], [low, low, high])
    ax.plot(*corners, color=START, lw=0.8, ls=":", gid=f"{gid}-edge")


def _stars(ax: Axes, gid: str, panel: Mapping[str, Any], cap: float) -> None:
    """The start model, that of the paper, and the paper's best cleaned model."""
    start, paper = panel["start"], panel["paper"]
    star: dict[str, Any] = {"marker": "*", "zorder": 5, "clip_on": False}

    # Filled is ours, hollow the paper's.
    if start:
        filled = star | {"s": 130, "color": START, "gid": f"{gid}-start"}
        ax.scatter([start["asr"]], [start["accuracy"]], **filled)
    if paper["start_accuracy"]:
        hollow = star | {"s": 90, "facecolors": "none", "edgecolors": BLACK, "linewidths": 0.8}
        place = ([paper["start_asr"]], [paper["start_accuracy"]])
        ax.scatter(*place, gid=f"{gid}-paper-start", **hollow)

    # The paper prints the accuracy but no ASR: a line over all ASRs that it allows.
    if paper["clean_accuracy"] is not None:
        best = [paper["clean_accuracy"]] * 2
        ax.plot([0, cap], best, color=BLACK, lw=2, gid=f"{gid}-paper-best", zorder=4)


def _answer_row(ax: Axes, y: float, row: Mapping[str, Any]) -> None:
    """One cell: the paper's value, the authors' points and ours, each with its interval."""
    clean = row["clean_accuracy"]

    # Two colours tell the objectives apart; they are not those of losses here.
    colour = COLOURS["mmcl" if row["pretrain_objective"] == "mmcl" else "ssl"]
    if clean["paper"] is not None:
        # From the paper's printed numbers, hence without an interval.
        lost = 1 - clean["paper"] / row["original_accuracy"]["paper"]
        _mark(ax, lost, y - STEP, "*", BLACK, size=64, hollow=True)

    drops = ((clean["authors_drop"], y, True), (clean["relative_drop"], y + STEP, False))
    for drop, height, hollow in drops:
        if drop:
            ax.hlines(height, *drop["ci"], color=colour, lw=1.4)
            _mark(ax, drop["value"], height, "o", colour, size=25, hollow=hollow)

    # Cleaned, but never down to the cap: all is lost.
    if clean["relative_drop"] is None and clean["evaluations"]:
        _mark(ax, 1, y + STEP, "x", colour, size=25)


def _mark(
    ax: Axes, x: float, y: float, marker: str, colour: str, *, size: float, hollow: bool = False
) -> None:
    """One mark of the answer."""
    looks = {"facecolor": "none" if hollow else colour, "edgecolor": colour}

    # A cross has no face to fill.
    if marker == "x":
        looks = {"color": colour}
    seaborn.scatterplot(
        x=[x], y=[y], ax=ax, marker=marker, s=size, linewidth=1, zorder=3, clip_on=False, **looks
    )


def _ends(row: Mapping[str, Any]) -> list[float]:
    """Ends of the intervals in a row of the answer."""
    clean = row["clean_accuracy"]
    drops = [drop for drop in (clean["authors_drop"], clean["relative_drop"]) if drop]
    return [end for drop in drops for end in drop["ci"]]


def _anchor(panel: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> float | None:
    """Start accuracy of a panel: ours, or the paper's where its points are the authors'."""
    if panel["start"]:
        accuracy: float = panel["start"]["accuracy"]
        return accuracy
    if points and points[0]["source"] == "authors":
        start: float | None = panel["paper"]["start_accuracy"]
        return start
    return None


def _highest(shown: Mapping[str, Any]) -> float:
    """The highest accuracy of a figure, at least 5%."""
    panels = shown["panels"]

    # Figures without any run still get a scale, from the paper or from the 5%.
    accuracies: list[float] = [point["accuracy"] for point in shown["points"]]
    accuracies += [panel["start"]["accuracy"] for panel in panels if panel["start"]]
    accuracies += [panel["paper"]["start_accuracy"] or 0 for panel in panels]
    return max([0.05, *accuracies])


Group = tuple[str, str, int | None]
"""Source, loss and seed of points."""


def _groups(points: Sequence[Mapping[str, Any]]) -> dict[Group, list[Mapping[str, Any]]]:
    """Points by source, loss and seed, in an order of their own."""
    groups: dict[Group, list[Mapping[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["source"], point["loss"], point["seed"]), []).append(point)

    # Losses in the order of `LOSSES`, which is not that of the alphabet.
    ranks: dict[str, int] = {loss: rank for rank, loss in enumerate(LOSSES)}

    def order(key: Group) -> tuple[str, int, int]:
        source, loss, seed = key
        # The authors' points have no seed; None cannot be compared with a number.
        return source, ranks[loss], -1 if seed is None else seed

    return {key: groups[key] for key in sorted(groups, key=order)}


def _is_of(panel: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    return all(panel[key] == point[key] for key in PANEL_KEYS)


def _scatter_legend(shown: Mapping[str, Any]) -> list[Line2D]:
    handles = [
        _handle(f"finetuned with {label(loss)}", marker=MARKERS[loss], color=COLOURS[loss], ms=4)
        for loss in LOSSES
    ]
    handles.append(_handle("start model", marker="*", color=START, ms=9))
    handles.append(_handle("paper: start", marker="*", mfc="none", color=BLACK, ms=9))
    handles.append(_handle("paper: best at the cap", color=BLACK, lw=2, ls="-"))

    # Named only where such marks are there.
    if any(point["source"] == "authors" for point in shown["points"]):
        handles.append(_handle("hollow: authors", marker="o", mfc="none", color=BLACK, ms=4))
    return handles


def _answer_legend(document: Mapping[str, Any]) -> list[Line2D]:
    with_interval = {"color": BLACK, "lw": 1.2, "ls": "-", "marker": "o", "ms": 5}
    handles = [_handle("paper", marker="*", mfc="none", mec=BLACK, ms=8)]
    if document["authors_files"]:
        handles.append(_handle("authors' points", mfc="none", **with_interval))
    if document["runs"]:
        handles.append(_handle("ours", **with_interval))
        handles.append(_handle("ours: none reached the cap", color=BLACK, marker="x", ms=5))
    return handles


def _handle(text: str, **looks: Any) -> Line2D:
    """An entry of a legend; a mark without a line unless `ls` says otherwise."""
    return Line2D([], [], **{"ls": "", "label": text, **looks})
