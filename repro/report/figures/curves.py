"""Curves of runs and studies, and all figures of a report together.

Learning rates and epochs; documents in, figures out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from repro.report.figures.answer import answer, answer_keys, budgets, sweep
from repro.report.figures.drawing import (
    BLACK,
    COLOURS,
    WIDTH,
    Columns,
    Drawn,
    Key,
    cap_line,
    cell_name,
    draw,
    draw_line,
    legend_of,
    style,
)
from repro.report.figures.responding import attack, matched, responding
from repro.report.figures.scatter import captions, scatter, scatter_keys
from repro.report.format import label, tick
from repro.report.numbers.cells import CLEANCLIP, DATASETS, OBJECTIVES

STAGES = {"pretrain": "Pre-training", "clean": "CleanCLIP"}
METRICS = {"accuracy": "accuracy", "asr": "ASR"}


def resisting(document: Mapping[str, Any]) -> Figure:
    """A row a dataset and cleaning size: ASR left by learning rate, and accuracy kept by ASR
    allowed.
    """
    found, cap = document["resistance"], document["settings"]["asr_cap"]
    cells = found["cells"]
    figure = Figure(figsize=(2 * WIDTH, 2.3 * len(cells) + 0.3), layout="constrained")
    axes = figure.subplots(len(cells), 2, squeeze=False, sharex="col")

    for cell, (left, right) in zip(cells, axes, strict=True):
        _ends_by_rate(left, cell, cap)
        for trade_off in cell["trade_offs"]:
            _kept_curves(right, found["caps"], trade_off)
        cap_line(right, cap)
        legend_of(right)

        name = f"{cell_name(cell)} pairs"
        left.set_title(f"{name}: end of equal runs", fontsize=8)
        right.set_title(f"{name}: trade-off", fontsize=8)
        left.set(xlabel="", ylabel="ASR left (%)", ylim=(-0.04, 1.04))
        right.set(xlabel="", ylabel="Accuracy kept (% of start)", ylim=(0, None))
        for ax in (left, right):
            ax.yaxis.set_major_formatter(tick)

    # Columns share their x axes.
    axes[-1, 0].set_xlabel("Learning rate", fontsize=9)
    axes[-1, 1].set_xlabel("ASR allowed (%)", fontsize=9)
    axes[-1, 1].xaxis.set_major_formatter(tick)
    axes[-1, 1].set_xlim(0, found["caps"][-1])
    return figure


def _ends_by_rate(ax: Axes, cell: Mapping[str, Any], cap: float) -> None:
    """A dot a seed, a line through the means; a diamond where it crosses the cap."""
    ax.axhline(cap, color=BLACK, lw=0.7, ls=(0, (4, 3)))
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if not cell["equal"]:
        ax.text(0.5, 0.5, "no rates known", transform=ax.transAxes, ha="center", va="center")
        return

    for objective in OBJECTIVES:
        data: Columns = {"rate": [], "asr": []}
        for row in cell["equal"]:
            data["rate"] += [row["learning_rate"]] * len(row[objective])
            data["asr"] += [end["asr"] for end in row[objective]]
        colour = COLOURS[objective]
        looks = {"color": colour, "s": 12, "alpha": 0.5, "linewidth": 0}
        seaborn.scatterplot(data=data, x="rate", y="asr", ax=ax, legend=False, **looks)

        # The mean over seeds at each rate; the interval stands in the table.
        line = {"color": colour, "lw": 1.3, "errorbar": None, "label": label(objective)}
        seaborn.lineplot(data=data, x="rate", y="asr", ax=ax, **line)

        # Only rates between those that were tried are known.
        crossed = [
            reached["rate"] for reached in cell["rates"][objective] if reached["side"] == "between"
        ]
        marks = {"marker": "D", "s": 18, "facecolor": "none", "edgecolor": colour}
        seaborn.scatterplot(x=crossed, y=[cap] * len(crossed), ax=ax, legend=False, **marks)
    legend_of(ax)


def _kept_curves(ax: Axes, caps: Sequence[float], trade_off: Mapping[str, Any]) -> None:
    """Two lines with the area between them; the authors' are dashed."""
    is_theirs = trade_off["source"] == "authors"
    for objective in OBJECTIVES:
        data: Columns = {"cap": list(caps), "kept": trade_off[objective]}
        draw_line(
            ax,
            data,
            drawstyle="steps-post",
            lw=1.3,
            color=COLOURS[objective],
            ls="--" if is_theirs else "-",
            label=label(objective) + (" (authors)" if is_theirs else ""),
        )

    # The area between the objectives, whichever of them keeps more.
    low, high = trade_off["mmcl_ssl"], trade_off["mmcl"]
    alpha = 0.06 if is_theirs else 0.12
    ax.fill_between(caps, low, high, step="post", color=COLOURS["mmcl"], alpha=alpha, lw=0)


def trajectories(document: Mapping[str, Any]) -> Figure:
    """Accuracy and ASR over the epochs of pre-training and of CleanCLIP.

    A row a model, one line a learning rate.
    """
    # Rows are models, columns a stage and one of its two metrics.
    models = [(dataset, objective) for dataset in DATASETS for objective in OBJECTIVES]
    shown = [(stage, metric) for stage in STAGES for metric in METRICS]
    figure = Figure(figsize=(2 * WIDTH, 6.2), layout="constrained")
    axes = figure.subplots(len(models), len(shown), squeeze=False, sharex="col", sharey="col")

    for (dataset, objective), row in zip(models, axes, strict=True):
        for (stage, metric), ax in zip(shown, row, strict=True):
            _trajectory(ax, document, (stage, dataset, objective), metric)
            # What it is called where it stands alone.
            model_name = f"{label(dataset)}, {label(objective)}"
            ax.set_label(f"{model_name}\n{STAGES[stage]}: {METRICS[metric]} (%)")
        row[0].set_ylabel(f"{label(dataset)}\n{label(objective)}", fontsize=8)
    for (stage, metric), ax in zip(shown, axes[0], strict=True):
        ax.set_title(f"{STAGES[stage]}: {METRICS[metric]} (%)", fontsize=8)

        # ASR may reach 100%, with room to the frame; accuracy is scaled to the data.
        ax.set_ylim(bottom=0, top=1.04 if metric == "asr" else None)
        ax.yaxis.set_major_formatter(tick)
    figure.supxlabel("Epochs", fontsize=9)
    return figure


def _trajectory(
    ax: Axes, document: Mapping[str, Any], model: tuple[str, str, str], metric: str
) -> None:
    """One metric of one model in one stage over its epochs."""
    # Of cleaning only CleanCLIP with 100K pairs, which every model had.
    runs = [
        run
        for run in document["trajectories"]
        if (run["stage"], run["dataset"], run["pretrain_objective"]) == model
        and (run["stage"] == "pretrain" or (run["loss"], run["clean_size"]) == (CLEANCLIP, "100k"))
    ]

    # Long form: a row an evaluation, with its run's rate and name beside it.
    data: Columns = {"epoch": [], metric: [], "rate": [], "run": []}
    for run in runs:
        data["epoch"] += run["epochs"]
        data[metric] += run[metric]
        data["rate"] += [run["learning_rate"]] * len(run["epochs"])
        data["run"] += [run["run"]] * len(run["epochs"])

    # Pre-training has one rate a model; of cleaning, the colours go from the smallest to the
    # largest, each of them seen on a light and on a dark page.
    rates = sorted(set(data["rate"]))
    palette = seaborn.blend_palette([COLOURS["mmcl"], "#a05fb4", COLOURS["ssl"]], len(rates))
    if model[0] == "pretrain":
        palette = [COLOURS["mmcl"]] * len(rates)

    # seaborn cannot draw an empty table.
    if runs:
        seaborn.lineplot(
            data=data,
            x="epoch",
            y=metric,
            hue="rate",
            hue_order=rates,
            palette=dict(zip(rates, palette, strict=True)),
            # Each run a line of its own: without an estimator nothing is averaged over them.
            units="run",
            estimator=None,
            legend=False,
            lw=1,
            ax=ax,
        )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=7)


def figure_names(document: Mapping[str, Any]) -> list[str]:
    """The figures that a document has."""
    return ["answer", *captions(document)]


def legends(document: Mapping[str, Any]) -> dict[str, list[Key]]:
    """The legends that stand above a whole figure, by its name."""
    found = {name: scatter_keys(document, name) for name in document["figures"]}
    return {"answer": answer_keys(document), **found}


def all_figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure of the report by name."""
    others = {
        "answer": answer,
        "sweep": sweep,
        "budgets": budgets,
        "resistance": resisting,
        "trajectories": trajectories,
        "responses": responding,
        "attack": attack,
        "matched": matched,
    }

    # What is not named here is one of the paper's scatter plots.
    return {
        name: others[name](document) if name in others else scatter(document, name)
        for name in figure_names(document)
    }


def draw_all(document: Mapping[str, Any]) -> dict[str, Drawn]:
    """Every figure of the report, drawn."""
    # Drawing depends on settings that are global in matplotlib, so it all happens within them.
    with style():
        return {name: draw(figure, name) for name, figure in all_figures(document).items()}
