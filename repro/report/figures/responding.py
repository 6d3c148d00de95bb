"""What studies measured over a number that they vary, and at equal accuracy before cleaning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.report.figures.drawing import BLACK, COLOURS, WIDTH, Columns, cell_name, draw_line
from repro.report.figures.scatter import attack_responses, cleaned_responses
from repro.report.format import label, tick
from repro.report.numbers.cells import OBJECTIVES

MEASURED = {
    "accuracy": "accuracy before cleaning (%)",
    "asr": "ASR before cleaning (%)",
    "asr_left": "ASR left (%)",
    "lost": "accuracy lost at the cap (% of start)",
}
"""What a study measures over a number, and the title of its axis."""
BEFORE, AFTER = ("asr", "accuracy"), ("asr_left", "lost")
"""Measures of a study that only pre-trains, and of one that cleans."""


def responding(document: Mapping[str, Any]) -> Figure:
    """What cleaning left over the numbers that studies vary: a row a number and cell."""
    return _over_numbers(cleaned_responses(document), AFTER)


def attack(document: Mapping[str, Any]) -> Figure:
    """Models before cleaning over the numbers that studies of pre-training vary."""
    return _over_numbers(attack_responses(document), BEFORE)


def _over_numbers(entries: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> Figure:
    figure = Figure(figsize=(2 * WIDTH, 2.5 * len(entries) + 0.4), layout="constrained")
    axes = figure.subplots(len(entries), len(measures), squeeze=False, sharex="row")
    for entry, row in zip(entries, axes, strict=True):
        for measure, ax in zip(measures, row, strict=True):
            _response(ax, entry, measure)
    return figure


def _response(ax: Axes, entry: Mapping[str, Any], measure: str) -> None:
    """A dot a seed, and a line through the means with their intervals, for both objectives."""
    for curve in entry["curves"]:
        colour = COLOURS[curve["pretrain_objective"]]
        known = [point for point in curve["points"] if measure in point["measures"]]
        seeds: Columns = {"number": [], "value": []}
        for point in known:
            # A seed that was not run has no mark.
            values = [value for value in point["measures"][measure]["values"] if value is not None]
            seeds["number"] += [point["number"]] * len(values)
            seeds["value"] += values
        looks = {"color": colour, "s": 12, "alpha": 0.5, "linewidth": 0}
        seaborn.scatterplot(data=seeds, x="number", y="value", ax=ax, legend=False, **looks)

        means: Columns = {
            "number": [point["number"] for point in known],
            "mean": [point["measures"][measure]["mean"] for point in known],
        }
        text = label(curve["pretrain_objective"])
        draw_line(ax, means, lw=1.3, color=colour, label=text)

    # After the limits: an interval of two seeds would leave no room for anything else.
    _shares_on_y(ax)
    for curve in entry["curves"]:
        colour = COLOURS[curve["pretrain_objective"]]
        for point in curve["points"]:
            if measure in point["measures"] and (ci := point["measures"][measure]["ci"]):
                ax.vlines(point["number"], *ci, color=colour, lw=1, alpha=0.7)

    _numbers_on_x(ax, entry)
    title = MEASURED[measure]
    if measure == "asr_left" and entry["learning_rate"] is not None:
        title = f"ASR left at a learning rate of {entry['learning_rate']:g} (%)"
    cell = cell_name(entry) if entry["clean_size"] else label(entry["dataset"])
    ax.set_title(f"{entry['study']}, {cell}: {title}", fontsize=7)
    ax.set_xlabel(entry["axis"], fontsize=8)
    if entry["curves"]:
        ax.legend(frameon=False, fontsize=7)


def _shares_on_y(ax: Axes) -> None:
    # From none to all, or lower: a model that gains accuracy has lost less than nothing. Axes on
    # which nothing was measured end at infinity.
    lowest = ax.dataLim.ymin if math.isfinite(ax.dataLim.ymin) else 0.0
    ax.set(ylabel="", ylim=(min(0.0, lowest) - 0.04, 1.04))
    ax.yaxis.set_major_formatter(tick)


def _numbers_on_x(ax: Axes, entry: Mapping[str, Any]) -> None:
    # The numbers span powers of ten and may include zero, as of poisoned pairs left in a cleaning
    # set: linear up to the smallest positive one, logarithmic above.
    numbers = sorted({point["number"] for curve in entry["curves"] for point in curve["points"]})
    ax.set_xscale("symlog", linthresh=min([n for n in numbers if n > 0], default=1))

    # Exactly the numbers that were tried.
    ax.set_xticks(numbers, [f"{number:g}" for number in numbers], fontsize=6)
    ax.minorticks_off()


def matched(document: Mapping[str, Any]) -> Figure:
    """ASR left and accuracy lost against the accuracy before cleaning: all models of the studies
    that vary a number, and of each seed a line between the two that are compared.
    """
    cells = document["equal_starts"]
    figure = Figure(figsize=(2 * WIDTH, 2.6 * len(cells) + 0.3), layout="constrained")
    axes = figure.subplots(len(cells), 2, squeeze=False, sharex="row")
    for cell, row in zip(cells, axes, strict=True):
        for measure, ax in zip(AFTER, row, strict=True):
            _against_accuracy(ax, document, cell, measure)
    return figure


def _against_accuracy(
    ax: Axes, document: Mapping[str, Any], cell: Mapping[str, Any], measure: str
) -> None:
    of_cell = [
        entry
        for entry in document["responses"]
        if (entry["dataset"], entry["clean_size"]) == (cell["dataset"], cell["clean_size"])
    ]
    for objective in OBJECTIVES:
        looks = {"color": COLOURS[objective], "s": 16, "alpha": 0.7, "linewidth": 0}
        seaborn.scatterplot(
            data=_models(of_cell, objective, measure),
            x="accuracy",
            y="value",
            ax=ax,
            label=label(objective),
            **looks,
        )

    # The two models of a seed that are compared.
    for seed in cell["seeds"]:
        pair = (seed["mmcl"], seed["mmcl_ssl"])
        ax.plot(
            [model["accuracy"] for model in pair],
            [model[measure] for model in pair],
            color=BLACK,
            lw=0.7,
            alpha=0.6,
        )
    ax.set_title(f"{cell_name(cell)}: {MEASURED[measure]}", fontsize=8)
    ax.set_xlabel("Accuracy before cleaning (%)", fontsize=8)
    _shares_on_y(ax)
    ax.xaxis.set_major_formatter(tick)
    ax.legend(frameon=False, fontsize=7)


def _models(entries: Sequence[Mapping[str, Any]], objective: str, measure: str) -> Columns:
    """Accuracy before cleaning and a measure after it, of every model of an objective."""
    points = [
        point
        for entry in entries
        for curve in entry["curves"]
        if curve["pretrain_objective"] == objective
        for point in curve["points"]
        if measure in point["measures"]
    ]

    # Studies share their reference, whose models are to stand here once.
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for point in points:
        accuracies, values = (point["measures"][name]["values"] for name in ("accuracy", measure))
        for seed, accuracy, value in zip(point["seeds"], accuracies, values, strict=True):
            if value is not None:
                found[point["variant"], seed] = accuracy, value
    return {
        "accuracy": [accuracy for accuracy, _ in found.values()],
        "value": [value for _, value in found.values()],
    }
