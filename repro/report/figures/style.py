"""How figures are drawn: colours, panels, and the forms that pages and the article need.

A figure is a list of panels, each a function that draws into given axes. The page sets the panels
as drawings of their own, so that a narrow screen stacks them; the file beside the page has them in
one picture.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import matplotlib
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from repro.report.format import label, rate, tick

Entry: TypeAlias = Mapping[str, Any]
"""An object of report.json."""
Document: TypeAlias = Entry
"""The whole of report.json."""
Points: TypeAlias = pd.DataFrame
"""Evaluations as `repro.report.build.points_of` returns them."""
Panel = Callable[[Axes], None]

OBJECTIVE_COLOURS = {"mmcl": "#2f7fd0", "mmcl_ssl": "#d4472f"}
LOSS_COLOURS = {"mmcl": "#8a6fd1", "ssl": "#a87b00", "mmcl_ssl": "#17907c"}
"""Two families that never mix: objectives of pre-training, and losses of finetuning. Each colour
has a contrast of at least 3:1 against the light and the dark page."""
LOSS_MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
BLACK = "#000000"
"""Becomes the text colour of the page."""
THRESHOLD: dict[str, Any] = {"color": BLACK, "lw": 0.8, "ls": (0, (4, 3))}
"""Of the line at the ASR threshold."""
WIDTH, HEIGHT, LEGEND = 3.5, 2.7, 0.3
"""Inches of a panel and of the legend below the panels."""
THEME: dict[str, Any] = {
    # Ids in the SVG follow from a fixed salt, so that equal documents give equal bytes.
    "svg.hashsalt": "repro",
    # Text stays text, which a reader can search and copy.
    "svg.fonttype": "none",
    # TrueType in the PDF, since many journals refuse matplotlib's default, Type 3.
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    # Transparent, for light and dark pages.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("axes.edgecolor", "text.color", "axes.labelcolor", "xtick.color", "ytick.color"), BLACK
    ),
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report, before it has data."""

    name: str
    page: str
    """File name of the page that shows it; "" for the article alone."""
    caption: str
    """Without the number of the figure; the article and the page share it."""
    panels: Callable[[Document, Points], list[Panel]]
    """Empty where the document has nothing to draw."""
    columns: int = 2
    height: float = HEIGHT


@dataclass(frozen=True)
class Drawn:
    """A figure in the forms that pages, article and other programs take."""

    name: str
    page: str
    caption: str
    svg: str
    pdf: bytes
    panels: list[str]
    """SVG elements, one a panel."""


def draw(drawing: Drawing, document: Document, points: Points) -> Drawn | None:
    """Draw a figure; None where the document has nothing to draw."""
    panels = drawing.panels(document, points)
    if not panels:
        return None
    # Whatever the user's own settings are, which stay as they are.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc=THEME)
        name = drawing.name
        alone = [
            _svg(_composed([panel], 1, drawing.height), f"{name}-{index}-")
            for index, panel in enumerate(panels)
        ]
        figure = _composed(panels, min(drawing.columns, len(panels)), drawing.height)
        pdf = io.BytesIO()
        # Dates and versions would make equal drawings differ.
        no_dates = dict.fromkeys(("CreationDate", "Producer", "Creator"))
        figure.savefig(pdf, format="pdf", metadata=no_dates)
        whole = _svg(figure, f"{name}-")
        return Drawn(name, drawing.page, drawing.caption, whole, pdf.getvalue(), alone)


def _composed(panels: Sequence[Panel], columns: int, height: float) -> Figure:
    """Draw panels in rows, with one legend for the labelled marks of all."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH * columns, height * rows + LEGEND), layout="constrained")
    handles: dict[str, Any] = {}
    for ax, panel in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, panels):
        if panel is None:
            ax.set_axis_off()
            continue
        panel(ax)
        marks, names = ax.get_legend_handles_labels()
        handles |= zip(names, marks, strict=True)
    if handles:
        legend = figure.legend(
            handles.values(),
            handles,
            loc="outside lower center",
            ncols=min(2 * columns, 4, len(handles)),
            handletextpad=0.4,
            columnspacing=1.2,
        )
        for mark in filter(None, legend.legend_handles):
            mark.set_alpha(1)
    return figure


def _svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element, whose ids start with `prefix`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # The XML declaration and DOCTYPE cannot stand within a page.
    text = text[text.index("<svg") :]
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    # Words have no colour of their own, and so take that of the drawing.
    return text.replace(BLACK, "currentColor").replace("<svg", '<svg fill="currentColor"', 1)


def percent_axis(*axes: Any) -> None:
    """Print fractions on these axes in percent."""
    for axis in axes:
        axis.set_major_formatter(tick)


def log_axis(ax: Axes, ticks: Sequence[float], rotation: float = 0) -> None:
    """Give the x axis a log scale with these ticks."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [rate(value) for value in ticks], rotation=rotation)
    ax.xaxis.set_minor_locator(NullLocator())


def setting(row: Entry) -> str:
    """Return dataset and cleaning pairs of a row in words."""
    return f"{label(row['dataset'])}, {label(row['clean_size'])} pairs"
