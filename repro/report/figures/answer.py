"""The answer, and how much of it hangs on the cap and on the search; documents in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.report.figures.drawing import (
    BLACK,
    COLOURS,
    START,
    SUCCESS,
    WIDTH,
    Key,
    cap_line,
    cell_name,
    draw_line,
    legend_above,
    legend_of,
    panel_of,
    percent_axes,
)
from repro.report.figures.scatter import SIGNIFICANT, hardly_any, searched
from repro.report.format import label, short, tick
from repro.report.numbers.cells import OBJECTIVES

CELL_COLOURS = {
    ("cc3m", "100k"): COLOURS["mmcl"],
    ("cc6m", "100k"): COLOURS["ssl"],
    ("cc6m", "200k"): COLOURS["mmcl_ssl"],
}
"""Of a dataset slot with a number of cleaning pairs."""
CELL_DASHES = dict(zip(CELL_COLOURS, ("-", "--", ":"), strict=True))
STEP = 0.22
"""Between the marks of one row of the answer: paper, authors' points, ours."""


def answer(document: Mapping[str, Any]) -> Figure:
    """Accuracy lost by the best cleaned model of every cell: paper, authors' points, and ours."""
    rows = document["tables"]["table1"]["rows"]
    figure = Figure(figsize=(1.5 * WIDTH, 3.2), layout="constrained")
    ax = figure.subplots()

    # Green to hardly any loss, red from a significant one on: the words of the claims file.
    ax.axvspan(
        -0.6, hardly_any(document), color=SUCCESS, alpha=0.13, lw=0, gid="answer-success-region"
    )
    ax.axvspan(SIGNIFICANT, 1.1, color=START, alpha=0.08, lw=0, gid="answer-loss-region")
    losses = seed_losses(document)
    for y, row in enumerate(rows):
        _answer_row(ax, y, row)
        _answer_seeds(ax, y, row, losses.get(panel_of(row), []))

    # Gains are negative losses: the axis reaches to the lowest interval, but not below -0.6.
    low = min([-0.1, *(end - 0.03 for row in rows for end in _ends(row))])
    ax.set(
        xlim=(max(low, -0.6), 1.03),
        # Upside down, so that the first row of Table 1 is on top.
        ylim=(len(rows) - 0.45, -0.55),
        xlabel="Share of the start accuracy lost (%)",
        ylabel="",
    )
    ax.set_yticks(range(len(rows)), [",\n".join(_answer_name(row)) for row in rows], fontsize=8)
    ax.tick_params(axis="y", length=0)

    # A line after every pair of objectives, which are compared with each other.
    for y in range(2, len(rows), 2):
        ax.axhline(y - 0.5, color=BLACK, lw=0.4, alpha=0.4)
    ax.xaxis.set_major_formatter(tick)
    legend_above(figure, answer_keys(document), columns=3)
    return figure


def seed_losses(document: Mapping[str, Any]) -> dict[tuple[str, ...], list[float | None]]:
    """Share of the start accuracy lost on each seed of the study that cleans every cell, by
    row of Table 1; None for a seed on which nothing reached the cap.
    """
    found = {}
    for study in document["studies"]:
        # Only such a study has verdicts on claims.
        for row in study["rows"] if study["claims"] else ():
            values = row["values"]
            pairs = zip(values["accuracy"], values["cleaned_accuracy"], strict=True)
            if row["variant"] == study["reference"] and row["clean_size"]:
                found[panel_of(row)] = [
                    None if kept is None else 1 - kept / start for start, kept in pairs if start
                ]
    return found


def _answer_name(row: Mapping[str, Any]) -> tuple[str, str]:
    """A row of the answer in two lines, so that the drawing is narrow enough for a phone."""
    return f"{label(row['dataset'])}, {label(row['clean_size'])}", label(row["pretrain_objective"])


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


def _answer_seeds(
    ax: Axes, y: float, row: Mapping[str, Any], losses: Sequence[float | None]
) -> None:
    """A small dot for each seed of a study, a small cross for one that was not cleaned."""
    colour = COLOURS["mmcl" if row["pretrain_objective"] == "mmcl" else "ssl"]
    for lost in losses:
        shape, place = ("x", 1.0) if lost is None else ("|", lost)
        _mark(ax, place, y + 1.75 * STEP, shape, colour, size=18)


def _mark(
    ax: Axes, x: float, y: float, marker: str, colour: str, *, size: float, hollow: bool = False
) -> None:
    """One mark of the answer."""
    looks = {"facecolor": "none" if hollow else colour, "edgecolor": colour}

    # A cross has no face to fill, nor has a stroke.
    if marker in "x|":
        looks = {"color": colour}
    seaborn.scatterplot(
        x=[x], y=[y], ax=ax, marker=marker, s=size, linewidth=1, zorder=3, clip_on=False, **looks
    )


def _ends(row: Mapping[str, Any]) -> list[float]:
    """Ends of the intervals in a row of the answer."""
    clean = row["clean_accuracy"]
    drops = [drop for drop in (clean["authors_drop"], clean["relative_drop"]) if drop]
    return [end for drop in drops for end in drop["ci"]]


def answer_keys(document: Mapping[str, Any]) -> list[Key]:
    """What the marks and regions of the answer mean."""
    keys = [
        Key(f"at most {short(hardly_any(document))}% lost: hardly any", "band", SUCCESS),
        Key(f"from {short(SIGNIFICANT)}% on: significant", "band", START),
        Key("paper", "*", BLACK, 0),
    ]
    if document["authors_files"]:
        keys.append(Key("authors' points", "interval", BLACK, 0))
    if document["runs"]:
        keys.append(Key("ours", "interval", BLACK))
        keys.append(Key("ours: none reached the cap", "x", BLACK))
    if seed_losses(document):
        keys.append(Key("ours: a seed each", "|", BLACK))
    return keys


def sweep(document: Mapping[str, Any]) -> Figure:
    """Best accuracy kept against the ASR that one is ready to accept."""
    figure = Figure(figsize=(2 * WIDTH, 3.2), layout="constrained")

    # A panel a pre-training objective, on the same axes, so that the two can be compared by eye.
    axes = figure.subplots(1, 2, sharex=True, sharey=True, squeeze=False)
    for objective, ax in zip(OBJECTIVES, axes.flat, strict=True):
        for row in document["statistics"]["threshold_sweep"]:
            # What is kept is a share of the start accuracy: without one there is no line.
            if row["pretrain_objective"] == objective and row["start"]:
                _kept(ax, row)

        # The cap that the tables use: this figure asks how much hangs on it.
        cap_line(ax, document["settings"]["asr_cap"])
        ax.set_title(f"Pre-trained with {label(objective)}", fontsize=8)
        ax.set(xlabel="", ylabel="")
        legend_of(ax)

    # An ASR of more than a half is no success; above 1, finetuning gained accuracy.
    axes[0, 0].set(xlim=(0, 0.5), ylim=(0, 1.1))
    percent_axes(axes)
    figure.supxlabel("Accepted attack success rate (%)", fontsize=9)
    figure.supylabel("Best accuracy kept (% of start)", fontsize=9)
    return figure


def _kept(ax: Axes, row: Mapping[str, Any]) -> None:
    """The accuracy kept of one cell: a step where a higher ASR admits a better model."""
    # From the last step on nothing better comes, so the line goes on level to an ASR of 1.
    steps = [*row["steps"], (1.0, row["steps"][-1][1])] if row["steps"] else []
    data = {
        "cap": [cap for cap, _ in steps],
        "kept": [accuracy / row["start"] for _, accuracy in steps],
    }

    # Colour is the cell's, the dash tells the authors' points from ours.
    is_theirs = row["source"] == "authors"
    draw_line(
        ax,
        data,
        drawstyle="steps-post",
        lw=1.3,
        color=CELL_COLOURS[row["dataset"], row["clean_size"]],
        ls="--" if is_theirs else "-",
        label=cell_name(row) + (" (authors)" if is_theirs else ""),
    )


def budgets(document: Mapping[str, Any]) -> Figure:
    """Median best score after n learning rates, with its simultaneous band."""
    figure = Figure(figsize=(2 * WIDTH, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, squeeze=False)
    for objective, ax in zip(OBJECTIVES, axes.flat, strict=True):
        for row in searched(document):
            if row["pretrain_objective"] == objective:
                _budget(ax, row)
        ax.set_title(f"Pre-trained with {label(objective)}", fontsize=8)
        ax.set(xlabel="", ylabel="")
        legend_of(ax)

        # Numbers of learning rates are whole.
        ax.xaxis.get_major_locator().set_params(integer=True)

    # Shared axes: what is set on the first holds for the other.
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].yaxis.set_major_formatter(tick)
    figure.supxlabel("Learning rates tried", fontsize=9)
    figure.supylabel("Best accuracy at the cap (%)", fontsize=9)
    return figure


def _budget(ax: Axes, row: Mapping[str, Any]) -> None:
    """Median and band of one cell, as far as the search cleans anything."""
    key = (row["dataset"], row["clean_size"])

    # A few scores bound a distribution so weakly that the band is all of it, and tells nothing.
    band = [
        (tried, low, high)
        for tried, low, _, high in row["curve"]
        if low is not None and high is not None and (low > 0 or high < 1)
    ]
    sizes, lows, highs = zip(*band, strict=True) if band else ((), (), ())
    ax.fill_between(sizes, lows, highs, color=CELL_COLOURS[key], alpha=0.12, lw=0)

    known = [(tried, median) for tried, _, median, _ in row["curve"] if median is not None]
    data = {
        "rates": [tried for tried, _ in known],
        "median": [median for _, median in known],
    }
    draw_line(ax, data, color=CELL_COLOURS[key], ls=CELL_DASHES[key], label=cell_name(row))
