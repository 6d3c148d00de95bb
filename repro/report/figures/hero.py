"""The outcome at a glance: what CleanCLIP leaves of the backdoor at each learning rate, and at what
price.
"""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from repro.report.figures.style import (
    OBJECTIVE_COLOURS,
    THRESHOLD,
    Document,
    Drawing,
    Entry,
    Panel,
    Points,
    log_axis,
    percent_axis,
    setting,
)
from repro.report.format import label, short


def hero_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left and accuracy kept over the learning rate, in the last setting with both models."""
    cap = document["settings"]["asr_cap"]
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return []
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


def _asr_left(cell: Entry, cap: float, named: bool, ax: Axes) -> None:
    ax.axhline(cap, **THRESHOLD)
    _lines(cell, "asr", named, ax)
    ax.set(ylabel="ASR left (%)", ylim=(-0.02, 1.03))
    ax.set_title(f"Backdoor left after CleanCLIP\n({setting(cell)})")
    if named:
        words, place = f"cleaned: ASR ≤ {short(cap)}%", ax.get_yaxis_transform()
        ax.text(0.72, cap + 0.03, words, transform=place, fontsize=7.5, ha="right")


def _accuracy_kept(cell: Entry, ax: Axes) -> None:
    _lines(cell, "kept", False, ax)
    low, high = ax.get_ylim()
    ax.set(ylabel="accuracy kept (% of the start)", ylim=(min(0.8, low), max(1.0, high)))
    ax.set_title(f"Accuracy kept\n({setting(cell)})")


def _lines(cell: Entry, measure: str, named: bool, ax: Axes) -> None:
    """Draw a thin line a seed and a thick one through the means, of both objectives."""
    rates = [row["learning_rate"] for row in cell["equal"]]
    for objective, colour in OBJECTIVE_COLOURS.items():
        name = label(objective)
        ends = pd.DataFrame(
            {end["seed"]: end[measure] for end in row[objective]} for row in cell["equal"]
        )
        ax.plot(rates, ends.sort_index(axis=1), color=colour, lw=0.7, alpha=0.6)
        means = ends.mean(axis=1)
        ax.plot(rates, means, color=colour, lw=2.6, marker="o", ms=4, label=name)
        if named:
            # Where the mean crosses one half, or else in the middle, the name has most room.
            at = int((means[:-1] - 0.5).abs().idxmin()) if len(means) > 1 else 0
            ax.annotate(
                name,
                (rates[at], means[at]),
                xytext=(6, 4),
                textcoords="offset points",
                color=colour,
                weight="bold",
                fontsize=9,
            )
    log_axis(ax, rates, rotation=25)
    percent_axis(ax.yaxis)
    ax.set_xlabel("learning rate of CleanCLIP")


def _trade_off(cell: Entry, curves: Entry, caps: list[float], cap: float, ax: Axes) -> None:
    """Draw the best accuracy for each ASR that one allows, as a share of the start's."""
    ax.axvline(cap, **THRESHOLD)
    for name, colour in OBJECTIVE_COLOURS.items():
        ax.step(caps, curves[name], where="post", color=colour, lw=2, label=label(name))
    of_authors = "\nauthors' points" if curves["source"] == "authors" else ""
    ax.set_title(f"Trade-off{of_authors}\n({setting(cell)})")
    ax.set(xlabel="ASR allowed (%)", ylabel="accuracy kept (% of the start)")
    ax.set(xlim=(0, caps[-1]), ylim=(0, None))
    percent_axis(ax.xaxis, ax.yaxis)


HERO = Drawing(
    "hero",
    "index.html",
    "The first panel shows the attack success rate (ASR) at the end of each run of CleanCLIP, the "
    "second the share of its accuracy that the model keeps. Thin lines are seeds, thick ones their "
    "means. At one learning rate, the model whose line is higher keeps more of its backdoor.",
    hero_panels,
    height=3.0,
)
RESISTANCE = Drawing(
    "resistance",
    "index.html",
    "The panels of the backdoor show the ASR left by learning rate. Those of the trade-off show "
    "the best accuracy among evaluations with at most the ASR on the x axis, mean over seeds; no "
    "such evaluation counts as nothing kept.",
    resistance_panels,
    columns=3,
)
