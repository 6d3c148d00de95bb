"""How figures are drawn: colours, panels, and the forms that pages and the article need.

A figure is a list of panels, each a function that draws into given axes. The page sets the panels
as drawings of their own, so that a narrow screen stacks them; the file beside the page has them in
one picture.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
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
from repro.report.reading import Document, Entry

Points: TypeAlias = pd.DataFrame
"""Evaluations as `repro.report.build.points_of` returns them."""
Panel = Callable[[Axes], None]

OBJECTIVE_COLOURS = {"mmcl": "#2f7fd0", "mmcl_ssl": "#d4472f"}
LOSS_COLOURS = {"mmcl": "#8a6fd1", "ssl": "#a87b00"}
"""Of finetuning by one loss alone. CleanCLIP has the colour of the objective of the model that it
cleans, so that a colour means one objective in all figures. Each colour has a contrast of at least
3:1 against the light and the dark page."""
LOSS_MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
PAPER_COLOUR = "#7c8792"
"""Of the paper's numbers, in every figure."""
CLEANED = "#2f9e44"
"""Of the region in which a model counts as cleaned."""
BLACK = "#000000"
"""Becomes the text colour of the page."""
THRESHOLD: dict[str, Any] = {"color": BLACK, "lw": 0.8, "ls": (0, (4, 3))}
"""Of the line at the ASR threshold."""
WIDTH, HEIGHT, LEGEND = 3.5, 2.7, 0.3
"""Inches of a panel and of the legend below the panels."""
TITLE_LETTERS = 30
"""Of a line of a title."""
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
    width: float = WIDTH
    stacked: bool = False
    """Whether README takes it, which needs it in one column too."""


@dataclass(frozen=True)
class Drawn:
    """A figure in the forms that pages, article and other programs take."""

    name: str
    page: str
    caption: str
    svg: str
    narrow: str
    """The same in one column; "" unless `stacked`."""
    pdf: bytes
    panels: list[str]
    """SVG elements, one a panel, without legends."""
    legend: str
    """SVG element of the one legend for all panels; "" without labelled marks."""


def draw(drawing: Drawing, document: Document, points: Points) -> Drawn | None:
    """Draw a figure; None where the document has nothing to draw."""
    panels = drawing.panels(document, points)
    if not panels:
        return None
    # Whatever the user's own settings are, which stay as they are.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc=THEME)
        name, size = drawing.name, (drawing.width, drawing.height)
        alone = [
            _svg(_composed([panel], 1, size, legend=False), f"{name}-{index}-")
            for index, panel in enumerate(panels)
        ]
        figure = _composed(panels, min(drawing.columns, len(panels)), size)
        pdf = io.BytesIO()
        # Dates and versions would make equal drawings differ.
        no_dates = dict.fromkeys(("CreationDate", "Producer", "Creator"))
        figure.savefig(pdf, format="pdf", metadata=no_dates)
        whole = _svg(figure, f"{name}-")
        narrow = _svg(_composed(panels, 1, size), f"{name}-") if drawing.stacked else ""
        page, caption = drawing.page, drawing.caption
        legend = _legend(figure, f"{name}-legend-")
        return Drawn(name, page, caption, whole, narrow, pdf.getvalue(), alone, legend)


def _legend(figure: Figure, prefix: str) -> str:
    """The legend of a figure by itself."""
    if not figure.legends:
        return ""
    [of] = figure.legends
    names = [text.get_text() for text in of.get_texts()]
    alone = Figure(figsize=(WIDTH * 2, LEGEND))
    handles = [handle for handle in of.legend_handles if handle]
    alone.legend(handles, names, loc="center left", ncols=3, columnspacing=1.2)
    return _svg(alone, prefix, bbox_inches="tight")


def _composed(
    panels: Sequence[Panel], columns: int, size: tuple[float, float], *, legend: bool = True
) -> Figure:
    """Draw panels of a size in rows, with one legend for the labelled marks of all."""
    rows, (width, height) = -(-len(panels) // columns), size
    figure = Figure(figsize=(width * columns, height * rows + LEGEND), layout="constrained")
    handles: dict[str, Any] = {}
    for ax, panel in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, panels):
        if panel is None:
            ax.set_axis_off()
            continue
        panel(ax)
        marks, names = ax.get_legend_handles_labels()
        handles |= zip(names, marks, strict=True)
    if handles and legend:
        drawn = figure.legend(
            handles.values(),
            handles,
            loc="outside lower center",
            ncols=min(columns + 1, len(handles)),
            handletextpad=0.4,
            columnspacing=1.2,
        )
        for mark in filter(None, drawn.legend_handles):
            mark.set_alpha(1)
    return figure


def _svg(figure: Figure, prefix: str, **options: Any) -> str:
    """Return the figure as an SVG element, whose ids start with `prefix`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **options)
    text = buffer.getvalue()
    # The XML declaration and DOCTYPE cannot stand within a page.
    text = text[text.index("<svg") :]
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    # What the pointer rests on says which seed it is, without any script.
    text = re.sub(r'(<g id="\S+-seed-(\d+)-\w+">)', r"\1<title>seed \2</title>", text)
    # Words have no colour of their own, and so take that of the drawing.
    return text.replace(BLACK, "currentColor").replace("<svg", '<svg fill="currentColor"', 1)


def finding_title(ax: Axes, text: str) -> None:
    """Give a panel a title that states what was found."""
    # The layout leaves room for a title's height, not for its width.
    lines = (textwrap.fill(line, TITLE_LETTERS) for line in text.splitlines())
    ax.set_title("\n".join(lines), loc="left", weight="bold", fontsize=9.5)


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
