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
from typing import TYPE_CHECKING, Any

from repro.report.points import LABELS, LOSSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"mmcl": "#2f7fd0", "ssl": "#c2631b", "mmcl_ssl": "#22915a"}
"""Of the finetuning losses; at least 3:1 against both the light and the dark page."""
MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
START = "#d4323c"
WIDTH = 3.35
"""Inches of one panel."""


@contextmanager
def style() -> Iterator[None]:
    """Settings that make drawings equal byte for byte, whatever the user's own matplotlib settings."""
    import matplotlib
    import seaborn

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc={
            "svg.hashsalt": "repro", "svg.fonttype": "none", "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False,
            "figure.dpi": 72, "axes.edgecolor": "#000000", "text.color": "#000000", "axes.labelcolor": "#000000",
            "xtick.color": "#000000", "ytick.color": "#000000", "figure.facecolor": "none", "axes.facecolor": "none",
        })  # fmt: skip
        yield


def scatter(document: dict[str, Any], name: str) -> Figure:
    """Figure 1, 2 or 3."""
    from matplotlib.figure import Figure

    figure = document["figures"][name]
    panels, cap = figure["panels"], document["settings"]["asr_cap"]
    columns = 2
    rows = -(-len(panels) // columns)
    drawing = Figure(figsize=(WIDTH * columns, 3.0 * rows + 0.55), layout="constrained")
    axes = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index, (panel, ax) in enumerate(zip(panels, axes.flat, strict=True)):
        points = [point for point in figure["points"] if _same(panel, point)]
        _panel(ax, f"{name}-{index}", panel, points, cap)
    top = max([0.05, *(p["accuracy"] for p in figure["points"]), *(p["start"]["accuracy"] for p in panels if p["start"]),
               *(p["paper"]["start_accuracy"] or 0 for p in panels)])  # fmt: skip
    axes[0, 0].set(xlim=(-0.04, 1.04), ylim=(-0.05 * top, 1.12 * top))
    _percent(axes)
    drawing.supxlabel("Attack success rate (%)" + (", reproduced on stand-in data" if document["stand_in"] else ""), fontsize=9)
    drawing.supylabel("Zero-shot top-1 accuracy (%)", fontsize=9)
    drawing.legend(handles=_legend(figure), loc="outside upper center", ncols=4, frameon=False, fontsize=8, handletextpad=0.3)
    return drawing


def _panel(ax: Axes, gid: str, panel: dict[str, Any], points: list[dict[str, Any]], cap: float) -> None:
    start, paper = panel["start"], panel["paper"]
    anchor = start["accuracy"] if start else paper["start_accuracy"] if points and points[0]["source"] == "authors" else None
    if anchor:
        ax.fill_between([0, cap], 0.95 * anchor, 1.3 * anchor, color=START, alpha=0.13, lw=0, gid=f"{gid}-region")
        ax.plot([0, cap, cap], [0.95 * anchor, 0.95 * anchor, 1.3 * anchor], color=START, lw=0.8, ls=":", gid=f"{gid}-edge")
    ax.axvline(cap, color="#000000", lw=0.7, ls=(0, (4, 3)), gid=f"{gid}-cap")
    for (source, loss, seed), group in _groups(points).items():
        hollow = source == "authors"
        ax.scatter(
            [p["asr"] for p in group], [p["accuracy"] for p in group], s=11 if hollow else 13, marker=MARKERS[loss],
            facecolors="none" if hollow else COLOURS[loss], edgecolors=COLOURS[loss], linewidths=0.5 if hollow else 0.3,
            alpha=0.5 if hollow else 0.8, gid=f"{gid}-{source}-{loss}-{'x' if seed is None else seed}", zorder=2 if hollow else 3,
        )  # fmt: skip
    if start:
        ax.scatter([start["asr"]], [start["accuracy"]], s=130, marker="*", color=START, zorder=5, gid=f"{gid}-start", clip_on=False)
    if paper["start_accuracy"]:
        ax.scatter([paper["start_asr"]], [paper["start_accuracy"]], s=90, marker="*", facecolors="none", edgecolors="#000000",
                   linewidths=0.8, zorder=5, gid=f"{gid}-paper-start", clip_on=False)  # fmt: skip
    if paper["clean_accuracy"] is not None:
        ax.plot([0, cap], [paper["clean_accuracy"]] * 2, color="#000000", lw=2, gid=f"{gid}-paper-best", zorder=4)
    ax.set_title(f"{LABELS[panel['dataset']]}, pre-trained with {LABELS[panel['pretrain_objective']]}, "
                 f"{LABELS[panel['clean_size']]} cleaning pairs", fontsize=7.5)  # fmt: skip
    if not points:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center")


def sweep(document: dict[str, Any]) -> Figure:
    """Best accuracy kept against the ASR that one is ready to accept."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2 * WIDTH, 3.2), layout="constrained")
    axes = drawing.subplots(1, 2, sharex=True, sharey=True, squeeze=False)
    for objective, ax in zip(("mmcl", "mmcl_ssl"), axes.flat, strict=True):
        for row in document["statistics"]["threshold_sweep"]:
            if row["pretrain_objective"] != objective or not row["start"]:
                continue
            caps = [cap for cap, _ in row["steps"]] + [1.0]
            kept = [accuracy / row["start"] for _, accuracy in row["steps"]]
            label = f"{LABELS[row['dataset']]}, {LABELS[row['clean_size']]}" + (" (authors)" if row["source"] == "authors" else "")
            colour = {("cc3m", "100k"): COLOURS["mmcl"], ("cc6m", "100k"): COLOURS["ssl"]}.get(
                (row["dataset"], row["clean_size"]), COLOURS["mmcl_ssl"])  # fmt: skip
            ax.step(
                caps, [*kept, kept[-1]], where="post", lw=1.3, color=colour, ls="--" if row["source"] == "authors" else "-", label=label
            )
        ax.axvline(document["settings"]["asr_cap"], color="#000000", lw=0.7, ls=(0, (4, 3)))
        ax.set_title(f"Pre-trained with {LABELS[objective]}", fontsize=8)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=7)
    axes[0, 0].set(xlim=(0, 0.5), ylim=(0, 1.1))
    _percent(axes)
    drawing.supxlabel("Accepted attack success rate (%)", fontsize=9)
    drawing.supylabel("Best accuracy kept (% of start)", fontsize=9)
    return drawing


def budgets(document: dict[str, Any]) -> Figure:
    """Median best score after n learning rates, with its simultaneous band."""
    from matplotlib.figure import Figure

    rows = document["statistics"]["best_of_n"]
    drawing = Figure(figsize=(2 * WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots(1, 2, sharey=True, squeeze=False)
    names = {"mmcl": axes[0, 0], "mmcl_ssl": axes[0, 1]}
    for objective, ax in names.items():
        for row, colour, dash in zip(
            (r for r in rows if r["pretrain_objective"] == objective), COLOURS.values(), ("-", "--", ":"), strict=False
        ):
            sizes, low, middle, high = zip(*row["curve"], strict=True)
            ax.fill_between(sizes, low, high, color=colour, alpha=0.12, lw=0)
            ax.plot(sizes, middle, color=colour, ls=dash, label=f"{LABELS[row['dataset']]}, {LABELS[row['clean_size']]}")
        ax.set_title(f"Pre-trained with {LABELS[objective]}", fontsize=8)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=7)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    drawing.supxlabel("Learning rates tried", fontsize=9)
    drawing.supylabel("Best accuracy at the cap (%)", fontsize=9)
    return drawing


def trajectories(document: dict[str, Any], loss: str = "mmcl_ssl") -> Figure:
    """Accuracy and ASR over the epochs of pre-training and of CleanCLIP, one line a learning rate."""
    import matplotlib
    from matplotlib.figure import Figure

    cells = [(s, d, o) for d in ("cc3m", "cc6m") for o in ("mmcl", "mmcl_ssl") for s in ("pretrain", "clean")]
    drawing = Figure(figsize=(2 * WIDTH, 7.6), layout="constrained")
    axes = drawing.subplots(4, 4, squeeze=False)
    for index, (stage, dataset, objective) in enumerate(cells):
        row, column = divmod(index, 2)
        runs = [t for t in document["trajectories"] if (t["stage"], t["dataset"], t["pretrain_objective"]) == (stage, dataset, objective)
                and (stage == "pretrain" or (t["loss"] == loss and t["clean_size"] == "100k"))]  # fmt: skip
        runs.sort(key=lambda t: t["learning_rate"])
        for metric, ax in zip(("accuracy", "asr"), axes[row, 2 * column : 2 * column + 2], strict=True):
            for shade, run in enumerate(runs):
                colour = (
                    COLOURS["mmcl"] if stage == "pretrain" else matplotlib.colormaps["viridis"](0.1 + 0.75 * shade / max(1, len(runs) - 1))
                )
                ax.plot(run["epochs"], run[metric], lw=0.9, color=colour)
            ax.set_title(f"{LABELS[dataset]} {LABELS[objective]}\n{'pre-training' if stage == 'pretrain' else 'CleanCLIP'}: "
                         f"{'ASR' if metric == 'asr' else 'accuracy'}", fontsize=6.5)  # fmt: skip
            ax.set_ylim(bottom=0, top=1.03 if metric == "asr" else None)
            ax.tick_params(labelsize=6)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    drawing.supxlabel("Epochs", fontsize=9)
    drawing.supylabel("%", fontsize=9)
    return drawing


def layout(drawing: Figure) -> dict[str, Any]:
    """Where the axes lie, for the page's script: size of the drawing in points, and per axes its box and data limits.

    Settles the layout: what is saved afterwards has the axes where this says.
    """
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")
    width, height = (float(v) * 72 for v in drawing.get_size_inches())
    return {
        "width": width, "height": height,
        "axes": [[width * box.x0, height * (1 - box.y1), width * box.x1, height * (1 - box.y0), *ax.get_xlim(), *ax.get_ylim()]
                 for ax in drawing.axes for box in [ax.get_position()]],
    }  # fmt: skip


def svg(drawing: Figure, name: str) -> str:
    """The drawing as an inline SVG element; black follows the page's text colour, and no id occurs in another drawing."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(rf'( id="|url\(#|href="#)(?!{name}-)', rf"\g<1>{name}.", text[text.index("<svg") :])
    return text.replace("#000000", "currentColor")


def pdf(drawing: Figure) -> bytes:
    """The drawing as a PDF without dates."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return buffer.getvalue()


def _groups(points: list[dict[str, Any]]) -> dict[tuple[str, str, int | None], list[dict[str, Any]]]:
    groups: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["source"], point["loss"], point["seed"]), []).append(point)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], LOSSES.index(item[0][1]), -1 if item[0][2] is None else item[0][2])))


def _legend(figure: dict[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker=MARKERS[loss], color=COLOURS[loss], ms=4, label=f"finetuned with {LABELS[loss]}") for loss in LOSSES
    ]
    handles.append(Line2D([], [], ls="", marker="*", color=START, ms=9, label="start model"))
    handles.append(Line2D([], [], ls="", marker="*", mfc="none", color="#000000", ms=9, label="paper: start"))
    handles.append(Line2D([], [], color="#000000", lw=2, label="paper: best at the cap"))
    if any(point["source"] == "authors" for point in figure["points"]):
        handles.append(Line2D([], [], ls="", marker="o", mfc="none", color="#000000", ms=4, label="hollow: authors' points"))
    return handles


def _percent(axes: Any) -> None:
    axes[0, 0].xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")


def _same(panel: dict[str, Any], point: dict[str, Any]) -> bool:
    return all(panel[key] == point[key] for key in ("dataset", "clean_size", "pretrain_objective"))


def all_figures(document: dict[str, Any]) -> dict[str, Figure]:
    """Every figure of the report by name."""
    drawings = {name: scatter(document, name) for name in document["figures"]}
    return drawings | {"sweep": sweep(document), "budgets": budgets(document), "trajectories": trajectories(document)}
