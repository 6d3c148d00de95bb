"""How figures are drawn: one look, equal bytes for equal documents, and the forms that pages need.

seaborn draws them. Every group of marks carries an id, so that the page can hide it; `layout` tells
the page where the axes lie, so that it can find the mark under the pointer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.report.format import tick

COLOURS = {"mmcl": "#2f7fd0", "ssl": "#c2631b", "mmcl_ssl": "#22915a"}
"""Of the losses; at least 3:1 against both the light and the dark page."""
MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
BLACK = "#000000"
"""Follows the page's text colour."""
START = "#d4323c"
"""Of the model that is cleaned."""
WIDTH = 3.35
"""Inches of one panel."""
THEME: dict[str, Any] = {
    # Ids in the SVG from a fixed salt, not from chance.
    "svg.hashsalt": "repro",
    # Text stays text, which a reader can search and copy.
    "svg.fonttype": "none",
    # TrueType in the PDF, since many journals refuse matplotlib's default, Type 3.
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # A dot is a point (1/72 inch), the unit of the SVG.
    "figure.dpi": 72,
    # Transparent, for light and dark pages.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("axes.edgecolor", "text.color", "axes.labelcolor", "xtick.color", "ytick.color"), BLACK
    ),
}
"""Settings that make drawings equal byte for byte and let them stand on any page."""

Columns = dict[str, list[Any]]
"""A table as seaborn takes it: name of a column to its values."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as the pages need it."""

    svg: str
    pdf: bytes
    layout: dict[str, Any]
    """Where the axes lie in the SVG."""


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's own matplotlib settings."""
    # No display is needed, and none is looked for.
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        # First without the user's matplotlibrc, then with our theme.
        matplotlib.rcdefaults()
        seaborn.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc=THEME)
        yield


def draw(figure: Figure, name: str) -> Drawn:
    """A figure in all its forms."""
    # Before saving: settling the layout is what moves the axes.
    settled = layout(figure)
    return Drawn(svg(figure, name), pdf(figure), settled)


def layout(figure: Figure) -> dict[str, Any]:
    """Size of the figure in points, and of each of its axes the box and the limits of the data.

    Settles the layout: what is saved afterwards has the axes where this says.
    """
    # The constrained layout moves the axes whenever it draws. So draw once, then switch it off.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")

    # 72 points an inch, as in the SVG.
    width, height = (float(inches) * 72 for inches in figure.get_size_inches())

    axes = []
    for ax in figure.axes:
        # Figure fractions with y upwards become points with y downwards, as SVG counts.
        box = ax.get_position()
        corners = [width * box.x0, height * (1 - box.y1), width * box.x1, height * (1 - box.y0)]

        # Left, top, right, bottom in points; then the limits of x and of y in data units.
        axes.append([*corners, *ax.get_xlim(), *ax.get_ylim()])
    return {"width": width, "height": height, "axes": axes}


def svg(figure: Figure, name: str) -> str:
    """The figure as an inline SVG element; no id in it occurs in another one."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()

    # Without the XML declaration and DOCTYPE, which cannot stand within a page.
    text = text[text.index("<svg") :]

    # Prefix every id, and every reference to one, with the figure's name; ids that we gave have it.
    text = re.sub(rf'( id="|url\(#|href="#)(?!{name}-)', rf"\g<1>{name}.", text)

    # Black becomes the text's colour, which a dark page makes light.
    return text.replace(BLACK, "currentColor")


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF without dates."""
    # Dates and versions would make equal drawings differ.
    nothing = {"CreationDate": None, "Producer": None, "Creator": None}
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata=nothing)
    return buffer.getvalue()


def columns(rows: Sequence[Mapping[str, Any]], *names: str) -> Columns:
    """The named columns of some rows."""
    return {name: [row[name] for row in rows] for name in names}


def percent_axes(axes: Any) -> None:
    """Percent on the axes that the others share."""
    axes[0, 0].xaxis.set_major_formatter(tick)
    axes[0, 0].yaxis.set_major_formatter(tick)


def cap_line(ax: Axes, cap: float, gid: str | None = None) -> None:
    """The ASR up to which a model counts as cleaned."""
    ax.axvline(cap, color=BLACK, lw=0.7, ls=(0, (4, 3)), gid=gid)


def legend_of(ax: Axes) -> None:
    """A small legend, where there is anything to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7)
