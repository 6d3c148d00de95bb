"""The figure that every record carries: fractions over epochs, as SVG without a drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite

WIDTH, HEIGHT, MARGIN = 480, 280, 36
COLOURS = ("#0072b2", "#d55e00")
"""Told apart by readers of all kinds of colour vision."""


def curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines of (epoch, fraction in [0, 1]) by name, at most two; points that are not finite are
    left out.
    """
    last = max((epoch for points in series.values() for epoch, _ in points), default=0) or 1

    def place(epoch: float, fraction: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * epoch / last
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * fraction
        return f"{x:.1f},{y:.1f}"

    # The frame, and what its ends mean.
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<polyline points="{place(0, 1)} {place(0, 0)} {place(last, 0)}" '
        'fill="none" stroke="black"/>',
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end">epoch {last:g}</text>',
        f'<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">1</text>',
        f'<text x="{MARGIN - 6}" y="{HEIGHT - MARGIN + 4}" text-anchor="end">0</text>',
    ]

    for index, ((name, points), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        line = " ".join(place(*point) for point in points if isfinite(point[1]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{MARGIN + 8 + 200 * index}" y="20" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])
