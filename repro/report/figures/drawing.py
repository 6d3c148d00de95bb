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
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from repro.report.format import label, tick

COLOURS = {"mmcl": "#2f7fd0", "ssl": "#c2631b", "mmcl_ssl": "#22915a"}
"""Of the losses; at least 3:1 against both the light and the dark page."""
MARKERS = {"mmcl": "o", "ssl": "^", "mmcl_ssl": "s"}
BLACK = "#000000"
"""Follows the page's text colour."""
START = "#d4323c"
"""Of the model that is cleaned."""
SUCCESS = "#22915a"
"""Of where a model counts as cleaned at hardly any loss."""
WIDTH = 3.35
"""Inches of one panel."""
POINTS = 72
"""To the inch, as in the SVG."""
DASHES = (0, (4, 3))
"""Of the cap's line."""
MARGIN = 3
"""Points about a panel that stands alone."""
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
    "figure.dpi": POINTS,
    # Transparent, for light and dark pages.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("axes.edgecolor", "text.color", "axes.labelcolor", "xtick.color", "ytick.color"), BLACK
    ),
}
"""Settings that make drawings equal byte for byte and let them stand on any page."""

PANEL = ("dataset", "clean_size", "pretrain_objective")
"""Fields that name a row of Table 1, and a panel of Figures 1-3."""

Columns = dict[str, list[Any]]
"""A table as seaborn takes it: name of a column to its values."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One of a figure's axes as a drawing of its own, so that a narrow page can set several below
    one another.
    """

    svg: str
    layout: dict[str, Any]
    """Its size, and where the axes lie in it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as the pages need it."""

    svg: str
    """The whole figure with its legend, for other programs."""
    pdf: bytes
    panels: list[Panel]
    """For the page, which has a legend of its own."""


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend, for matplotlib and for the page."""

    text: str
    shape: str
    """A marker of matplotlib's, or `line`, `dashes`, `band` or `interval`."""
    colour: str
    filled: float = 1.0
    """How far the face is filled, 0 to 1."""


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
    _settle(figure)
    whole, paper = svg(figure, name), pdf(figure)

    # Last, for it takes the figure apart.
    return Drawn(whole, paper, _panels(figure, name))


def _settle(figure: Figure) -> None:
    """Fix the layout: what is saved afterwards has the axes where they are now."""
    # The constrained layout moves the axes whenever it draws. So draw once, then switch it off.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _panels(figure: Figure, name: str) -> list[Panel]:
    """Each of a figure's axes alone, with all its labels; the figure has none left afterwards."""
    # What the axes share, each of them says for itself.
    across, up = figure.get_supxlabel(), figure.get_supylabel()
    figure.supxlabel("")
    figure.supylabel("")
    for legend in figure.legends:
        legend.set_visible(False)

    shown = [ax for ax in figure.axes if ax.axison]
    for ax in shown:
        ax.set_visible(False)

    panels = []
    for index, ax in enumerate(shown):
        ax.set_visible(True)
        _name_alone(ax, across, up)
        box = _inches(figure, ax)
        drawing = svg(figure, name, f"{name}.{index}.", bbox_inches=box)
        panels.append(Panel(drawing, _layout(figure, ax, box)))
        ax.set_visible(False)
    return panels


def _name_alone(ax: Axes, across: str, up: str) -> None:
    """Give axes the title, labels and ticks that they need where nothing stands beside them."""
    # Of axes that share their x, one has the label.
    column = ax.get_shared_x_axes().get_siblings(ax)
    labels = [other.get_xlabel() for other in (ax, *column)]
    ax.set_xlabel(across or next(filter(None, labels), ""), fontsize=8)

    # `label` is what a panel is called where its place in the figure tells it.
    named = str(ax.get_label())
    if named:
        ax.set_title(named, fontsize=8)
    ax.set_ylabel("" if named else up or ax.get_ylabel(), fontsize=8)
    ax.tick_params(labelbottom=True, labelleft=True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_visible(True)


def _inches(figure: Figure, ax: Axes) -> Bbox:
    """The part of the figure that axes with their labels take."""
    figure.draw_without_rendering()
    box = ax.get_tightbbox()
    assert box is not None
    return Bbox(box.padded(MARGIN).get_points() / figure.dpi)


def _layout(figure: Figure, ax: Axes, part: Bbox) -> dict[str, Any]:
    """Size of a part of the figure in points, and where axes lie in it with the limits of their
    data.
    """
    width, height = figure.get_size_inches()

    # Figure fractions with y upwards become points with y downwards, as SVG counts.
    box = ax.get_position()
    corners = [
        POINTS * (width * box.x0 - part.x0),
        POINTS * (part.y1 - height * box.y1),
        POINTS * (width * box.x1 - part.x0),
        POINTS * (part.y1 - height * box.y0),
    ]

    # Left, top, right, bottom in points; then the limits of x and of y in data units.
    return {
        "width": POINTS * part.width,
        "height": POINTS * part.height,
        "axes": [float(value) for value in (*corners, *ax.get_xlim(), *ax.get_ylim())],
    }


def svg(figure: Figure, name: str, prefix: str | None = None, **how: Any) -> str:
    """The figure as an inline SVG element; no id in it occurs in another one.

    `prefix` of the ids that matplotlib gives, the figure's name if there is none; `how` it is
    saved.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **how)
    text = buffer.getvalue()

    # Without the XML declaration and DOCTYPE, which cannot stand within a page.
    text = text[text.index("<svg") :]

    # Prefix every id, and every reference to one; ids that we gave have the figure's name.
    text = re.sub(rf'( id="|url\(#|href="#)(?!{name}-)', rf"\g<1>{prefix or f'{name}.'}", text)

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


def panel_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Dataset, cleaning pairs and objective of a row."""
    return tuple(row[key] for key in PANEL)


def percent_axes(axes: Any) -> None:
    """Percent on the axes that the others share."""
    axes[0, 0].xaxis.set_major_formatter(tick)
    axes[0, 0].yaxis.set_major_formatter(tick)


def cap_line(ax: Axes, cap: float, gid: str | None = None) -> None:
    """The ASR up to which a model counts as cleaned."""
    ax.axvline(cap, color=BLACK, lw=0.7, ls=DASHES, gid=gid)


def legend_above(figure: Figure, keys: Sequence[Key], columns: int = 4) -> None:
    """The legend of a whole figure."""
    figure.legend(
        handles=[_handle(key) for key in keys],
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        # So small that four columns are no wider than the figure, which would cut them off.
        fontsize=7,
        handletextpad=0.3,
        columnspacing=1.2,
    )


def faced(colour: str, filled: float) -> tuple[float, float, float, float]:
    """A colour, filled in part."""
    red, green, blue = to_rgb(colour)
    return red, green, blue, filled


def _handle(key: Key) -> Artist:
    """An entry of a legend."""
    match key.shape:
        case "band":
            # As the region in a panel: a faint face with a dotted edge.
            return Patch(fc=faced(key.colour, 0.13), ec=key.colour, ls=":", label=key.text)
        case "line":
            return Line2D([], [], color=key.colour, lw=2, label=key.text)
        case "dashes":
            return Line2D([], [], color=key.colour, lw=0.7, ls=DASHES, label=key.text)

    # A face that is all transparent would take its edge along in a PDF.
    face = faced(key.colour, key.filled) if key.filled else "none"
    looks: dict[str, Any] = {"color": key.colour, "mfc": face, "ms": 4}
    shape = key.shape
    if shape == "interval":
        shape, looks["lw"] = "o", 1.2
    if shape == "*":
        looks["ms"] = 9
    style = "-" if "lw" in looks else ""
    return Line2D([], [], marker=shape, ls=style, label=key.text, **looks)


def legend_of(ax: Axes) -> None:
    """A small legend, where there is anything to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7)


def draw_line(ax: Axes, data: Columns, **looks: Any) -> None:
    """A line through the points of two columns as they stand: nothing is averaged or sorted."""
    # The names of the columns, in the order in which they were put in.
    x, y = data
    seaborn.lineplot(data=data, x=x, y=y, ax=ax, estimator=None, sort=False, **looks)


def cell_name(row: Mapping[str, Any]) -> str:
    """Dataset and cleaning pairs of a row."""
    return f"{label(row['dataset'])}, {label(row['clean_size'])}"
