"""The outcome at a glance: what CleanCLIP leaves of the backdoor at each learning rate, and at what
price.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from repro.report.figures.style import (
    OBJECTIVE_COLOURS,
    Document,
    Drawing,
    Panel,
    Points,
    percent_axis,
    rate_axis,
    setting,
    threshold_line,
)
from repro.report.format import label, short, tick
from repro.report.numbers.cells import OBJECTIVES


def hero_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left and accuracy kept over the learning rate, in the last setting with both models."""
    cells = _measured(document)
    if not cells:
        return []
    cap = document["settings"]["asr_cap"]
    return [partial(_asr_left, cells[-1], cap, True), partial(_accuracy_kept, cells[-1])]


def resistance_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left over the learning rate, and accuracy kept over the ASR allowed, of each setting."""
    cap, caps = document["settings"]["asr_cap"], document["resistance"]["caps"]
    cells = document["resistance"]["cells"]
    return [
        *(partial(_asr_left, cell, cap, False) for cell in cells if cell["equal"]),
        *(
            partial(_trade_off, cell, curves, caps, cap)
            for cell in cells
            for curves in cell["trade_offs"]
        ),
    ]


def _measured(document: Document) -> list[Mapping[str, Any]]:
    return [cell for cell in document["resistance"]["cells"] if cell["equal"]]


def _asr_left(cell: Mapping[str, Any], cap: float, named: bool, ax: Axes) -> None:
    threshold_line(ax, cap, "y")
    _lines(ax, cell, "asr", named)
    ax.set(ylabel="ASR left (%)", ylim=(-0.02, 1.03))
    ax.set_title(f"Backdoor left after CleanCLIP\n({setting(cell)})")
    if named:
        words = f"cleaned: ASR ≤ {short(cap)}%"
        place = ax.get_yaxis_transform()
        ax.text(0.72, cap + 0.03, words, transform=place, fontsize=7.5, ha="right")


def _accuracy_kept(cell: Mapping[str, Any], ax: Axes) -> None:
    _lines(ax, cell, "kept", False)
    low, high = ax.get_ylim()
    ax.set(ylabel="accuracy kept (% of the start)", ylim=(min(0.8, low), max(1.0, high)))
    ax.set_title(f"Accuracy kept\n({setting(cell)})")


def _lines(ax: Axes, cell: Mapping[str, Any], measure: str, named: bool) -> None:
    """Draw a thin line a seed and a thick one through the means, of both objectives."""
    rates = [row["learning_rate"] for row in cell["equal"]]
    for objective in OBJECTIVES:
        colour = OBJECTIVE_COLOURS[objective]
        by_seed: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for row in cell["equal"]:
            for end in row[objective]:
                if end[measure] is not None:
                    by_seed[end["seed"]].append((row["learning_rate"], end[measure]))
        for ends in by_seed.values():
            ax.plot(*zip(*ends, strict=True), color=colour, lw=0.7, alpha=0.45)
        means = _means(cell["equal"], objective, measure)
        if not means:
            continue
        ax.plot(
            *zip(*means, strict=True),
            color=colour,
            lw=2.6,
            marker="o",
            ms=4,
            label=label(objective),
        )
        if named:
            # Where the mean crosses one half, or else in the middle, the name has most room.
            x, y = min(means[:-1] or means, key=lambda mean: abs(mean[1] - 0.5))
            ax.annotate(
                label(objective),
                (x, y),
                xytext=(6, 4),
                textcoords="offset points",
                color=colour,
                weight="bold",
                fontsize=9,
            )
    rate_axis(ax, rates)
    percent_axis(ax.yaxis)
    ax.set_xlabel("learning rate of CleanCLIP")


def _means(
    rows: Sequence[Mapping[str, Any]], objective: str, measure: str
) -> list[tuple[float, float]]:
    means = []
    for row in rows:
        values = [end[measure] for end in row[objective] if end[measure] is not None]
        if values:
            means.append((row["learning_rate"], fmean(values)))
    return means


def _trade_off(
    cell: Mapping[str, Any],
    curves: Mapping[str, Any],
    caps: Sequence[float],
    cap: float,
    ax: Axes,
) -> None:
    """Draw the best accuracy for each ASR that one allows, as a share of the start's."""
    threshold_line(ax, cap)
    for objective in OBJECTIVES:
        ax.step(
            caps,
            curves[objective],
            where="post",
            color=OBJECTIVE_COLOURS[objective],
            lw=2,
            label=label(objective),
        )
    of_authors = "\nauthors' points" if curves["source"] == "authors" else ""
    ax.set_title(f"Trade-off{of_authors}\n({setting(cell)})")
    ax.set(
        xlabel="ASR allowed (%)",
        ylabel="accuracy kept (% of the start)",
        xlim=(0, caps[-1]),
        ylim=(0, None),
    )
    ax.xaxis.set_major_formatter(tick)
    percent_axis(ax.yaxis)


HERO = Drawing(
    "hero",
    "index.html",
    "What is left after equal finetuning: the attack success rate (ASR) at the end of each run of "
    "CleanCLIP, and the share of its accuracy that the model keeps. Thin lines: seeds; thick "
    "lines: their mean. At the same learning rate the model pre-trained with MMCL + SSL keeps more "
    "of its backdoor where its line is above the other.",
    hero_panels,
    height=3.0,
)
RESISTANCE = Drawing(
    "resistance",
    "index.html",
    "Above: the ASR left by learning rate. Below: the best accuracy among evaluations with at most "
    "the ASR on the x axis, mean over seeds; no such evaluation counts as nothing kept.",
    resistance_panels,
    columns=3,
)
