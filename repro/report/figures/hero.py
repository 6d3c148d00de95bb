"""The outcome at a glance: what CleanCLIP leaves of the backdoor at each learning rate, and what
the cleaned models are worth.
"""

from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from repro.report.figures.style import (
    BLACK,
    CLEANED,
    OBJECTIVE_COLOURS,
    PAPER_COLOUR,
    THRESHOLD,
    Drawing,
    Panel,
    Points,
    finding_title,
    log_axis,
    percent_axis,
    setting,
)
from repro.report.format import label, short
from repro.report.reading import Arrow, Document, Entry, arrows, findings

ROW = 1.0
"""Distance of two arrows of one setting; settings are half of it further apart."""


def hero_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left over the learning rate in the last setting with both models, and the accuracy of
    both models before and after cleaning in all settings.
    """
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return []
    panels: list[Panel] = [partial(_rates, document, cells[-1])]
    if rows := arrows(document):
        panels.append(partial(_arrows, document, rows))
    return panels


def resistance_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left over the learning rate, of each setting."""
    cells = document["resistance"]["cells"]
    return [partial(_asr_left, document, cell) for cell in cells if cell["equal"]]


def _rates(document: Document, cell: Entry, ax: Axes) -> None:
    """The lines of one setting, and the band of cleaned models."""
    cap = document["settings"]["asr_cap"]
    ax.axhspan(-0.02, cap, color=CLEANED, alpha=0.18, lw=0)
    words, place = f"cleaned:\nASR ≤ {short(cap)}%", ax.get_yaxis_transform()
    ax.text(0.99, cap + 0.02, words, transform=place, ha="right", color=BLACK, fontsize=8)
    _lines(cell, ax)
    _own_lines(document, cell, ax)
    finding_title(ax, findings(document)[0])
    ax.set(ylabel="attacks that still succeed (ASR, %)", ylim=(-0.02, 1.03))
    ax.set_xlabel(f"learning rate of CleanCLIP, log scale ({setting(cell)})")


def _arrows(document: Document, rows: list[Arrow], ax: Axes) -> None:
    """An arrow from the accuracy before cleaning to that after it, a row a setting and model."""
    ticks, names, place, last = [], [], 0.0, ""
    for row in rows:
        place -= ROW * (1.5 if last and row.setting != last else 1)
        ticks.append(place)
        first = row.setting != last
        last = row.setting
        names.append(f"{row.setting}   {row.model}" if first else row.model)
        colour = OBJECTIVE_COLOURS[row.objective]
        _arrow(ax, row.paper, place, PAPER_COLOUR, 1.1)
        _arrow(ax, row.own, place - 0.28, colour, 1.1, own=True)
        _arrow(ax, row.ours, place, colour, 2.6)
        if row.says:
            right = max(value for value in (*row.ours, *row.own) if value is not None)
            ax.annotate(
                row.says,
                (right, place),
                xytext=(6, 0),
                textcoords="offset points",
                color=BLACK,
                va="center",
                fontsize=8,
            )
    if any(row.paper[0] is not None for row in rows):
        words, place_of = "grey: the paper, on its own data", ax.transAxes
        ax.text(0.02, 0.98, words, transform=place_of, va="top", color=BLACK, fontsize=8)
    ax.set_yticks(ticks, names)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, None), ylim=(place - 0.8, -0.2))
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * 1.22)
    finding_title(ax, findings(document)[1])
    ax.set_xlabel("accuracy (%), before (dot) and after cleaning")
    percent_axis(ax.xaxis)


def _arrow(
    ax: Axes,
    ends: tuple[float | None, float | None],
    place: float,
    colour: str,
    width: float,
    *,
    own: bool = False,
) -> None:
    """Dot at the first end and arrow head at the second; a model without one was not cleaned. Those
    of one's `own` run are dashed.
    """
    before, after = ends
    if before is None:
        return
    # Above the arrow, whose head would hide the dot where the way is short.
    face, style = ("none", "--") if own else (colour, "-")
    ax.plot(before, place, "o", color=colour, ms=2 + width, mfc=face, zorder=5)
    if own:
        # For the legend, which an arrow cannot stand in.
        ax.plot([], [], color=colour, lw=width, ls=style, label="your run")
    if after is not None:
        ax.annotate(
            "",
            xy=(after, place),
            xytext=(before, place),
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "lw": width,
                "ls": style,
                "shrinkA": 0,
                "shrinkB": 0,
                "mutation_scale": 6 + 2 * width,
            },
        )


def _asr_left(document: Document, cell: Entry, ax: Axes) -> None:
    ax.axhline(document["settings"]["asr_cap"], **THRESHOLD)
    _lines(cell, ax)
    _own_lines(document, cell, ax)
    ax.set(ylabel="ASR left (%)", ylim=(-0.02, 1.03))
    ax.set_title(f"Backdoor left after CleanCLIP\n({setting(cell)})")
    ax.set_xlabel("learning rate of CleanCLIP")


def setting_of(cell: Entry) -> tuple[str, str]:
    """Dataset and cleaning size of a cell."""
    return cell["dataset"], cell["clean_size"]


def _lines(cell: Entry, ax: Axes) -> None:
    """A thin line a seed and a thick one through the means, of both objectives."""
    rates = [row["learning_rate"] for row in cell["equal"]]
    for objective, colour in OBJECTIVE_COLOURS.items():
        ends = _ends(cell, objective)
        for seed, of_seed in ends.items():
            (line,) = ax.plot(rates, of_seed, color=colour, lw=0.7, alpha=0.6)
            line.set_gid(f"seed-{seed}-{objective}")
        means = ends.mean(axis=1)
        ax.plot(rates, means, color=colour, lw=2.6, marker="o", ms=4)
        # Where the mean crosses one half, or else in the middle, the name has most room.
        at = int((means[:-1] - 0.5).abs().idxmin()) if len(means) > 1 else 0
        ax.annotate(
            label(objective),
            (rates[at], means[at]),
            xytext=(8, 6),
            textcoords="offset points",
            color=colour,
            weight="bold",
            fontsize=9,
        )
    # Every second rate has room for its name.
    log_axis(ax, rates[::2] if len(rates) > 4 else rates)
    percent_axis(ax.yaxis)


def _own_lines(document: Document, cell: Entry, ax: Axes) -> None:
    """The report's own run in this setting, beside the archived seeds."""
    line: dict[str, Any] = {"marker": "d", "linestyle": "--", "lw": 1.4, "ms": 5}
    for own in document["own_cells"]:
        if setting_of(own) != setting_of(cell) or not own["equal"]:
            continue
        rates = [row["learning_rate"] for row in own["equal"]]
        for objective, colour in OBJECTIVE_COLOURS.items():
            ends = _ends(own, objective).mean(axis=1)
            ax.plot(rates, ends, color=colour, mec=BLACK, **line)
        # Lines fall from the left, so that this corner has room.
        key = Line2D([], [], color=BLACK, label="your run", **line)
        ax.legend(handles=[key], loc="upper right", frameon=False, fontsize=8)


def _ends(cell: Entry, objective: str) -> pd.DataFrame:
    """The ASR at the ends of the runs: a row a learning rate, a column a seed."""
    ends = pd.DataFrame(
        {end["seed"]: end["asr"] for end in row[objective]} for row in cell["equal"]
    )
    return ends.sort_index(axis=1)


HERO = Drawing(
    "hero",
    "index.html",
    "Left: the attack success rate (ASR) at the end of each run of CleanCLIP; thin lines are "
    "seeds, thick ones their means. At one learning rate, the model whose line is higher keeps "
    "more of its backdoor. Right: accuracy before and after cleaning, means over seeds; what a "
    "model loses is a share of its accuracy before.",
    hero_panels,
    height=3.3,
    width=3.9,
    stacked=True,
)
RESISTANCE = Drawing(
    "resistance",
    "index.html",
    "The panels show the ASR left by learning rate, as the first figure does.",
    resistance_panels,
    columns=3,
)
