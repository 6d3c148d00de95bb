"""`repro status`: how far the study is, for whoever asks, on whichever node."""

import json
import math
import threading
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repro.runs.run import place_of
from repro.view.board import duration, share, summary_line
from repro.view.states import RunState
from repro.view.watch import Board
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
        show(watched.look())


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


def show(view: View) -> None:
    """Print the table of all runs that have not ended, and the counts of the others."""
    console = Console(highlight=False, emoji=False)
    # A pipe has no width; its lines stay whole.
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(summary_line(view), markup=False, soft_wrap=True)
    if view.stage and view.count("running"):
        console.print(f"stage {view.stage}", markup=False)
    rows = [state for state in view.states if state.state not in ("done", "waiting")]
    table = Table("", "run", "epoch", "accuracy", "ASR", "speed", "saved", "left", box=None)
    for state in rows:
        table.add_row(*map(Text, _cells(state)))
    if rows:
        console.print(table)
    for state in view.states:
        if state.warning and state.state != "done":
            console.print(f"! {state.name}: {state.warning}", markup=False, soft_wrap=True)


def _cells(state: RunState) -> list[str]:
    """A row of the table."""
    speed = f"{state.pairs_per_second:,.0f} pairs/s" if state.pairs_per_second else ""
    waits = f", {state.waiting_share:.0%} waiting" if state.waiting_share is not None else ""
    age = state.checkpoint_age
    left = state.left
    return [
        f"{state.state} {state.where and f'({state.where})'}".strip(),
        f"{state.spec.stage} {state.name}",
        f"{state.epoch:.1f}/{state.epochs:.0f}",
        share("", state.accuracy).strip(),
        share("", state.asr).strip(),
        f"{speed}{waits}",
        "" if age is None else f"{duration(age)} ago",
        "" if left is None or state.state == "failed" else duration(left),
    ]
