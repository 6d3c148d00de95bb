"""SVG bodies to PNG files on all cores: unsafe ones refused, coloured by keyed hash.

The bytes of a file are the renderer's own, so they do not depend on Pillow's compressor.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from repro.data.keyed import keyed_digest
from repro.events import die_with_parent
from repro.sources.icons.package import Box

INKS = ("#222222", "#b3261e", "#1f5fbf", "#1b7f3b", "#7b3fb5", "#c26a00", "#5a4636", "#00798c")
PAPERS = ("#ffffff",) * 3 + ("#f4efe6", "#e8f1fb", "#eaf6ec", "#fdf3d8", "#f3e8f7", "#dddddd")
"""Colours of one-colour icons and of all backgrounds; a third of the backgrounds is white."""
MIN_CONTRAST = 16
"""Difference of the brightest and the darkest grey, of 255; a drawing below it is blank."""
SHAPE_SIDE = 16
"""Side of the grey thumbnail for comparison, in pixels."""

_STILL = """
    circle clipPath defs ellipse g line linearGradient marker mask path pattern polygon polyline
    radialGradient rect stop symbol title use
"""
_FILTERS = """
    feBlend feColorMatrix feComponentTransfer feComposite feDropShadow feFlood feFuncA feFuncB
    feFuncG feFuncR feGaussianBlur feMerge feMergeNode feMorphology feOffset filter
"""
_MOVING = "animate animateMotion animateTransform set"
ELEMENTS = [*_STILL.split(), *_FILTERS.split(), *_MOVING.split()]
"""Allowed elements of a body; an animation is drawn at its start."""
UNSAFE = {
    "element": re.compile(rf"<(?!/?(?:{'|'.join(ELEMENTS)})[\s/>])"),
    "script": re.compile(r"\son\w+\s*=|javascript:", re.IGNORECASE),
    "reference": re.compile(
        r"href\s*+=\s*+[\"']?+(?!#)|url\(\s*+(?:&quot;|[\"'])?+(?!#)|@import", re.IGNORECASE
    ),
}
"""Forbidden content of a body by reason; references may name parts of the same drawing only."""

CHUNK = 128
"""Drawings sent to a worker at a time."""
WAITING_CHUNKS = 4
"""Chunks that wait for each worker; bounds the memory."""


class DrawingJob(NamedTuple):
    """A drawing to make: set and name of the icon, body, box, whether it has its own colours."""

    set: str
    name: str
    body: str
    box: Box
    palette: bool


@dataclass(frozen=True, slots=True)
class DrawnIcon:
    """A rasterised icon: PNG file, and its shape (256,), the grey thumbnail."""

    png: bytes
    shape: NDArray[np.uint8]


class Refused(NamedTuple):
    """Reason against an icon: unsafe_element, _script or _reference, unreadable or blank."""

    reason: str


def draw_icon(job: DrawingJob, size: int) -> DrawnIcon | Refused:
    """Rasterise one icon, `size` pixels square, centred."""
    for kind, pattern in UNSAFE.items():
        if pattern.search(job.body):
            return Refused(f"unsafe_{kind}")

    ink, paper = colours(job)
    left, top, width, height = job.box
    side = max(width, height)  # narrow icons are centred in a square
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{size}" height="{size}">'
        f"{job.body.replace('currentColor', ink)}</svg>"
    )
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, background=paper, skip_system_fonts=True
        )
    except ValueError:
        return Refused("unreadable")

    # A drawing without contrast in grey has no shape to compare either.
    grey = Image.open(io.BytesIO(png)).convert("L")
    darkest, brightest = grey.getextrema()
    if brightest - darkest < MIN_CONTRAST:  # type: ignore[operator]  # numbers in mode L
        return Refused("blank")
    shape = np.asarray(grey.resize((SHAPE_SIDE, SHAPE_SIDE), Image.Resampling.BOX), dtype=np.uint8)
    return DrawnIcon(bytes(png), shape.ravel())


def colours(job: DrawingJob) -> tuple[str, str]:
    """Ink and paper of an icon, by set and name; open parts of a palette take the first ink."""
    digest = keyed_digest("colours", job.set, job.name)
    ink = INKS[0] if job.palette else INKS[digest[0] % len(INKS)]
    return ink, PAPERS[digest[1] % len(PAPERS)]


def draw_icons(
    jobs: Iterable[DrawingJob], count: int, size: int
) -> Iterator[tuple[DrawingJob, DrawnIcon | Refused]]:
    """Rasterise `count` icons on all cores, in their order, with a progress bar."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    waiting: deque[Future[list[tuple[DrawingJob, DrawnIcon | Refused]]]] = deque()
    console = Console(stderr=True)

    # Spawned, not forked: the progress bar runs a thread.
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), die_with_parent) as pool,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("drawing icons", total=count)
        remaining = iter(jobs)
        while chunk := list(islice(remaining, CHUNK)):
            waiting.append(pool.submit(_draw_chunk, chunk, size))
            if len(waiting) > WAITING_CHUNKS * (workers or 1):
                yield from waiting.popleft().result()
                progress.advance(bar, CHUNK)
        while waiting:
            yield from waiting.popleft().result()
            progress.advance(bar, CHUNK)


def _draw_chunk(jobs: list[DrawingJob], size: int) -> list[tuple[DrawingJob, DrawnIcon | Refused]]:
    # Without the body less data goes back between processes.
    return [(job._replace(body=""), draw_icon(job, size)) for job in jobs]
