"""The figures of the report, in the order in which they are numbered and shown."""

from repro.report.figures.forest import FOREST
from repro.report.figures.hero import HERO, RESISTANCE
from repro.report.figures.pairs import PAIRS
from repro.report.figures.responses import ATTACK, MECHANISM, RESPONSES
from repro.report.figures.scatter import SCATTERS
from repro.report.figures.style import Drawn, Points, draw
from repro.report.reading import Document

FIGURES = (HERO, FOREST, *SCATTERS, RESISTANCE, RESPONSES, ATTACK, MECHANISM, PAIRS)
"""A figure that the document has nothing for is left out."""


def draw_all(document: Document, points: Points) -> dict[str, Drawn]:
    """Draw every figure that the document has data for, by name."""
    return {of.name: figure for of in FIGURES if (figure := draw(of, document, points))}
