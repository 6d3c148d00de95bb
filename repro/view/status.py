"""`repro status`: how far the study is, for whoever asks, on whichever node."""

import json
import math
import threading
from dataclasses import asdict
from typing import Any

from rich.console import Console

from repro.runs.run import place_of
from repro.view.board import Board, table
from repro.view.watched import View, Watched

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows."""


def status(profile: str, study: str | None, watch: bool, as_json: bool) -> None:
    """Print the state of every run; `watch` keeps the board up until Ctrl-C."""
    watched = Watched.of_study(study) if study else Watched.of_profile(profile)
    if as_json:
        print(json.dumps(content(watched.look()), indent=1, allow_nan=False))
    elif watch:
        Board(watched, watched.look).run(threading.Event())
    else:
        console = Console(highlight=False, markup=False, emoji=False)
        # A pipe has no width; its lines stay whole.
        if not console.is_terminal:
            console.width = PIPE_WIDTH
        console.print(table(watched.look()))


def content(view: View) -> dict[str, Any]:
    """The view as JSON content: shares as fractions, times in seconds."""
    return {
        "title": view.title,
        "began": view.began,
        "left_seconds": view.left,
        "stage": view.stage,
        "runs": [
            {
                "run": place_of(state.spec),
                "profile": state.spec.profile,
                **{name: _finite(value) for name, value in asdict(state).items() if name != "spec"},
                "share": state.share,
                "warning": state.warning,
            }
            for state in view.states
        ],
    }


def _finite(value: object) -> object:
    """The value, or None for the loss of a run that diverged: JSON has no NaN."""
    return value if not isinstance(value, float) or math.isfinite(value) else None
