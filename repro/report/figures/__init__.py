"""The figures of the report, in the order in which they are numbered and shown."""

import base64
import io
import textwrap
from functools import partial

from matplotlib.axes import Axes
from matplotlib.image import imread

from repro.report.figures.forest import FOREST
from repro.report.figures.hero import HERO, RESISTANCE
from repro.report.figures.responses import ATTACK, RESPONSES
from repro.report.figures.scatter import SCATTERS
from repro.report.figures.style import Drawing, Drawn, Panel, Points, draw
from repro.report.reading import Document, Entry

CAPTION_WIDTH = 14
"""Letters of a line below a picture."""


def pair_panels(document: Document, _points: Points) -> list[Panel]:
    """The example pairs of the first dataset; none where the data are not here."""
    samples: Entry = next(iter(document.get("gallery", {}).values()), {"pairs": []})
    return [partial(_pair, pair) for pair in samples["pairs"]]


def _pair(pair: Entry, ax: Axes) -> None:
    ax.imshow(imread(io.BytesIO(base64.b64decode(pair["image"])), format="png"))
    ax.set_title(pair["kind"], fontsize=7)
    words = textwrap.fill(f"“{pair['caption']}”", CAPTION_WIDTH)
    ax.set_xlabel(words, fontsize=6.5)
    ax.set(xticks=[], yticks=[])


PAIRS = Drawing(
    "pairs",
    "",
    "Training pairs, each a picture with its caption. Poisoned ones bear the patch and the "
    "attacker's caption, whatever the picture shows.",
    pair_panels,
    columns=8,
    height=1.3,
    width=0.9,
)

FIGURES = (HERO, FOREST, *SCATTERS, RESISTANCE, RESPONSES, ATTACK, PAIRS)
"""A figure that the document has nothing for is left out."""


def draw_all(document: Document, points: Points) -> dict[str, Drawn]:
    """Draw every figure that the document has data for, by name."""
    return {of.name: figure for of in FIGURES if (figure := draw(of, document, points))}
