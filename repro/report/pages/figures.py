"""Figures: documents in, drawings out; no file access and no statistics.

Figures 1-3 are the paper's scatter plots: x = ASR, y = zero-shot top-1, a panel per pre-trained model, colour and shape
per finetuning loss. Every group of marks carries an id, so that the page can hide it, and `layout` tells the page where
the axes lie, so that it can find the mark under the pointer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repro.report.format import LABELS
from repro.report.numbers.cells import LOSSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"mmcl": "#2f7fd0", "ssl": "#c2631b", "mmcl_ssl": "#22915a"}
"""Of the finetuning losses; at least 3:1 against both the light and the dark page."""
MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
START = "#d4323c"
CAPTIONS = {
    "figure1": "Figure 1. Accuracy and ASR during finetuning of the CC3M models.",
    "figure2": "Figure 2. The same for the CC6M models.",
    "figure3": "Figure 3. 100K against 200K cleaning pairs for the CC6M model of MMCL + SSL (above), and our control for MMCL (below).",
    "sweep": "How the result depends on the cap: best accuracy after CleanCLIP, as a share of the start, among evaluations with at most "
    "the ASR on the x axis.",
    "budgets": "What the search buys: median best accuracy at the cap after trying n learning rates, with a simultaneous band; 0 where "
    "none met the cap. Where the band would span all values, as with few rates, none is drawn. The grid's rates count as random draws.",
    "trajectories": "Accuracy and ASR over epochs: pre-training, and CleanCLIP with 100K pairs by learning rate (dark: smallest).",
    "responses": "What the studies measured over a number that they vary: one dot a seed, lines through the means.",
}
"""What each figure shows; the paper's own come first."""
HARDLY, SIGNIFICANT = 0.05, 0.10
"""Shares of accuracy lost that the claims file calls hardly any and significant."""
WIDTH = 3.35
"""Inches of one panel."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as the pages need it."""

    svg: str
    pdf: bytes
    layout: dict[str, Any]
    """Where the axes lie in the SVG."""


def draw(figure: Figure, name: str) -> Drawn:
    """A figure in all its forms."""
    settled = layout(figure)
    return Drawn(svg(figure, name), pdf(figure), settled)


@contextmanager
def style() -> Iterator[None]:
    """Settings that make drawings equal byte for byte, whatever the user's own matplotlib settings."""
    import matplotlib
    import seaborn

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(
            context="paper",
            style="ticks",
            font="DejaVu Sans",
            rc={
                "svg.hashsalt": "repro",
                "svg.fonttype": "none",
                "pdf.fonttype": 42,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.dpi": 72,
                "axes.edgecolor": "#000000",
                "text.color": "#000000",
                "axes.labelcolor": "#000000",
                "xtick.color": "#000000",
                "ytick.color": "#000000",
                "figure.facecolor": "none",
                "axes.facecolor": "none",
            },
        )
        yield


def captions(document: dict[str, Any]) -> dict[str, str]:
    """The figures that a document has, and what each shows."""
    return {
        name: text for name, text in CAPTIONS.items() if name != "responses" or document["doses"]
    }


def scatter(document: dict[str, Any], name: str) -> Figure:
    """Figure 1, 2 or 3."""
    from matplotlib.figure import Figure

    figure = document["figures"][name]
    panels, cap = figure["panels"], document["settings"]["asr_cap"]
    columns = 2
    rows = -(-len(panels) // columns)
    drawing = Figure(
        figsize=(WIDTH * columns, (3.0 if rows == 1 else 2.35) * rows + 0.55), layout="constrained"
    )
    axes = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index, (panel, ax) in enumerate(zip(panels, axes.flat, strict=True)):
        points = [point for point in figure["points"] if _same(panel, point)]
        _panel(ax, f"{name}-{index}", panel, points, cap)
    top = max(
        [
            0.05,
            *(p["accuracy"] for p in figure["points"]),
            *(p["start"]["accuracy"] for p in panels if p["start"]),
            *(p["paper"]["start_accuracy"] or 0 for p in panels),
        ]
    )
    axes[0, 0].set(xlim=(-0.04, 1.04), ylim=(-0.05 * top, 1.12 * top))
    percent_axes(axes)
    drawing.supxlabel(
        "Attack success rate (%)"
        + (", reproduced on stand-in data" if document["stand_in"] else ""),
        fontsize=9,
    )
    drawing.supylabel("Zero-shot top-1 accuracy (%)", fontsize=9)
    drawing.legend(
        handles=_legend(figure),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=7.5,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    return drawing


def _panel(
    ax: Axes, gid: str, panel: dict[str, Any], points: list[dict[str, Any]], cap: float
) -> None:
    start, paper = panel["start"], panel["paper"]
    anchor = (
        start["accuracy"]
        if start
        else paper["start_accuracy"]
        if points and points[0]["source"] == "authors"
        else None
    )
    if anchor:
        ax.fill_between(
            [0, cap],
            0.95 * anchor,
            1.3 * anchor,
            color=START,
            alpha=0.13,
            lw=0,
            gid=f"{gid}-region",
        )
        ax.plot(
            [0, cap, cap],
            [0.95 * anchor, 0.95 * anchor, 1.3 * anchor],
            color=START,
            lw=0.8,
            ls=":",
            gid=f"{gid}-edge",
        )
    ax.axvline(cap, color="#000000", lw=0.7, ls=(0, (4, 3)), gid=f"{gid}-cap")
    for (source, loss, seed), group in _groups(points).items():
        hollow = source == "authors"
        ax.scatter(
            [p["asr"] for p in group],
            [p["accuracy"] for p in group],
            s=11 if hollow else 13,
            marker=MARKERS[loss],
            facecolors="none" if hollow else COLOURS[loss],
            edgecolors=COLOURS[loss],
            linewidths=0.5 if hollow else 0.3,
            alpha=0.5 if hollow else 0.8,
            gid=f"{gid}-{source}-{loss}-{'x' if seed is None else seed}",
            zorder=2 if hollow else 3,
        )
    if start:
        ax.scatter(
            [start["asr"]],
            [start["accuracy"]],
            s=130,
            marker="*",
            color=START,
            zorder=5,
            gid=f"{gid}-start",
            clip_on=False,
        )
    if paper["start_accuracy"]:
        ax.scatter(
            [paper["start_asr"]],
            [paper["start_accuracy"]],
            s=90,
            marker="*",
            facecolors="none",
            edgecolors="#000000",
            linewidths=0.8,
            zorder=5,
            gid=f"{gid}-paper-start",
            clip_on=False,
        )
    if paper["clean_accuracy"] is not None:
        ax.plot(
            [0, cap],
            [paper["clean_accuracy"]] * 2,
            color="#000000",
            lw=2,
            gid=f"{gid}-paper-best",
            zorder=4,
        )
    ax.set_title(
        f"{LABELS[panel['dataset']]}, pre-trained with {LABELS[panel['pretrain_objective']]}, "
        f"{LABELS[panel['clean_size']]} pairs",
        fontsize=7.5,
    )
    if not points:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center")


def percent_tick(value: float, _: float | None = None) -> str:
    """A fraction on an axis in percent, with the digits that it needs: 2.5, but 5."""
    return f"{round(100 * value, 2) + 0:g}"  # + 0: no minus before a zero


def answer(document: dict[str, Any]) -> Figure:
    """Accuracy lost by the best cleaned model of every cell: the paper's, the authors' points', and ours with intervals."""
    from matplotlib.figure import Figure

    rows = document["tables"]["table1"]["rows"]
    drawing = Figure(figsize=(2 * WIDTH, 2.75), layout="constrained")
    ax = drawing.subplots()
    ax.axvspan(-0.6, HARDLY, color=COLOURS["mmcl_ssl"], alpha=0.13, lw=0)
    ax.axvspan(SIGNIFICANT, 1.1, color=START, alpha=0.08, lw=0)
    for y, row in enumerate(rows):
        clean, colour = (
            row["clean_accuracy"],
            COLOURS["mmcl" if row["pretrain_objective"] == "mmcl" else "ssl"],
        )
        original = row["original_accuracy"]["paper"]
        if clean["paper"] is not None:
            ax.plot(
                1 - clean["paper"] / original,
                y - 0.22,
                ls="",
                marker="*",
                ms=8,
                mfc="none",
                mec="#000000",
                mew=0.8,
            )
        for drop, shift, filled in (
            (clean["authors_drop"], 0.0, False),
            (clean["relative_drop"], 0.22, True),
        ):
            if drop:
                ax.plot(drop["ci"], [y + shift] * 2, color=colour, lw=1.4, solid_capstyle="butt")
                ax.plot(
                    drop["value"],
                    y + shift,
                    ls="",
                    marker="o",
                    ms=5,
                    color=colour,
                    mfc=colour if filled else "none",
                )
        if clean["relative_drop"] is None and clean["evaluations"]:
            ax.plot(1, y + 0.22, ls="", marker="x", ms=5, color=colour, clip_on=False)
    values = [
        v
        for row in rows
        for drop in (row["clean_accuracy"]["authors_drop"], row["clean_accuracy"]["relative_drop"])
        if drop
        for v in drop["ci"]
    ]
    low = min(-0.1, *(v - 0.03 for v in values), 0)
    ax.set(
        xlim=(max(low, -0.6), 1.03),
        ylim=(len(rows) - 0.45, -0.55),
        xlabel="Share of the start accuracy lost (%)",
    )
    ax.set_yticks(
        range(len(rows)),
        [
            f"{LABELS[row['dataset']]}, {LABELS[row['clean_size']]}, {LABELS[row['pretrain_objective']]}"
            for row in rows
        ],
    )
    ax.tick_params(axis="y", length=0)
    for y in range(2, len(rows), 2):
        ax.axhline(y - 0.5, color="#000000", lw=0.4, alpha=0.4)
    ax.xaxis.set_major_formatter(percent_tick)
    drawing.legend(
        handles=_answer_legend(document),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
        handletextpad=0.3,
    )
    return drawing


def _answer_legend(document: dict[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="", marker="*", mfc="none", mec="#000000", ms=8, label="paper")]
    if document["authors_files"]:
        handles.append(
            Line2D(
                [],
                [],
                color="#000000",
                lw=1.2,
                marker="o",
                mfc="none",
                ms=5,
                label="authors' points",
            )
        )
    if document["runs"]:
        handles.append(Line2D([], [], color="#000000", lw=1.2, marker="o", ms=5, label="ours"))
        handles.append(
            Line2D(
                [], [], ls="", color="#000000", marker="x", ms=5, label="ours: none reached the cap"
            )
        )
    return handles


def layout(drawing: Figure) -> dict[str, Any]:
    """Where the axes lie, for the page's script: size of the drawing in points, and per axes its box and data limits.

    Settles the layout: what is saved afterwards has the axes where this says.
    """
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")
    width, height = (float(v) * 72 for v in drawing.get_size_inches())
    return {
        "width": width,
        "height": height,
        "axes": [
            [
                width * box.x0,
                height * (1 - box.y1),
                width * box.x1,
                height * (1 - box.y0),
                *ax.get_xlim(),
                *ax.get_ylim(),
            ]
            for ax in drawing.axes
            for box in [ax.get_position()]
        ],
    }


def svg(drawing: Figure, name: str) -> str:
    """The drawing as an inline SVG element; black follows the page's text colour, and no id occurs in another drawing."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(
        rf'( id="|url\(#|href="#)(?!{name}-)', rf"\g<1>{name}.", text[text.index("<svg") :]
    )
    return text.replace("#000000", "currentColor")


def pdf(drawing: Figure) -> bytes:
    """The drawing as a PDF without dates."""
    buffer = io.BytesIO()
    drawing.savefig(
        buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None}
    )
    return buffer.getvalue()


def _groups(
    points: list[dict[str, Any]],
) -> dict[tuple[str, str, int | None], list[dict[str, Any]]]:
    groups: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["source"], point["loss"], point["seed"]), []).append(point)
    return dict(
        sorted(
            groups.items(),
            key=lambda item: (
                item[0][0],
                LOSSES.index(item[0][1]),
                -1 if item[0][2] is None else item[0][2],
            ),
        )
    )


def _legend(figure: dict[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=MARKERS[loss],
            color=COLOURS[loss],
            ms=4,
            label=f"finetuned with {LABELS[loss]}",
        )
        for loss in LOSSES
    ]
    handles.append(Line2D([], [], ls="", marker="*", color=START, ms=9, label="start model"))
    handles.append(
        Line2D([], [], ls="", marker="*", mfc="none", color="#000000", ms=9, label="paper: start")
    )
    handles.append(Line2D([], [], color="#000000", lw=2, label="paper: best at the cap"))
    if any(point["source"] == "authors" for point in figure["points"]):
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                mfc="none",
                color="#000000",
                ms=4,
                label="hollow: authors",
            )
        )
    return handles


def percent_axes(axes: Any) -> None:
    """Percent on the axes that the others share."""
    axes[0, 0].xaxis.set_major_formatter(percent_tick)
    axes[0, 0].yaxis.set_major_formatter(percent_tick)


def _same(panel: dict[str, Any], point: dict[str, Any]) -> bool:
    return all(panel[key] == point[key] for key in ("dataset", "clean_size", "pretrain_objective"))
