"""The picture of a study: a block for a terminal of any width, and lines for everywhere else."""

import time
from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from repro.view.archive import Archive, Ends
from repro.view.states import RunState
from repro.view.watched import View

WIDE, MIDDLE = 100, 64
"""Columns of a terminal from which a row shows all numbers, and from which all but the speed."""
FINISHED, WARNED = 3, 3
"""Ended runs that the block shows, the last ones, and warnings."""


def block(view: View, archive: Archive, width: int, height: int) -> RenderableType:
    """The block for a terminal of `width` columns and `height` lines."""
    title = Text(view.title, style="bold")
    head = Text("  ").join([title, Text(counts(view))])
    lines: list[RenderableType] = [head, _time(view, width)]
    running = [state for state in view.states if state.state == "running"]
    ended = [state for state in view.states if state.ended]
    ended.sort(key=lambda state: -state.ended)

    # One line stays free below the block: a terminal scrolls when its last one is written.
    room = max(0, height - len(lines) - 1)
    rows = [*running, *ended[:FINISHED]][:room]
    if rows:
        lines.append(_rows(rows, archive, width))
    warned = [state for state in view.states if state.warning]
    for state in warned[: min(WARNED, room - len(rows))]:
        lines.append(Text(f"! {state.name}: {state.warning}", style="yellow"))

    for line in lines:
        if isinstance(line, Text):
            line.no_wrap = True
            line.overflow = "ellipsis"
    return Group(*lines)


def _time(view: View, width: int) -> RenderableType:
    """Bar, elapsed time, time left and end, or what there is of it."""
    words = Text(times(view))
    if view.began is None or view.left is None or width < MIDDLE:
        return words
    gone = time.time() - view.began
    bar = ProgressBar(total=gone + view.left, completed=gone, width=width // 4)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(bar, words)
    return table


def counts(view: View) -> str:
    """Ended runs of each stage, and what runs beside them."""
    parts = []
    for stage, name in (("pretrain", "pre-train"), ("clean", "clean")):
        if number := view.count(stage=stage):
            parts.append(f"{name} {view.count('done', stage=stage)}/{number}")
    for state in ("failed", "stopped", "queued"):
        if number := view.count(state):
            parts.append(f"{number} {state}")
    reasons = {state.where for state in view.states if state.state == "queued"} - {""}
    if reasons:
        parts.append(f"in the queue: {', '.join(sorted(reasons))}")
    if view.stage and not view.count("running"):
        parts.append(f"stage {view.stage}")
    return " · ".join(parts)


def times(view: View) -> str:
    """Time left, the clock at the end, and time gone: a narrow terminal shows the first."""
    parts = []
    if view.left is not None:
        end = datetime.fromtimestamp(time.time() + view.left)
        day = "" if end.date() == datetime.now().date() else f"{end:%a} "
        parts.append(f"about {duration(view.left)} left (ends {day}{end:%H:%M})")
    if view.began is not None:
        parts.append(f"{duration(time.time() - view.began)} gone")
    if not parts:
        left = view.count("waiting", "stopped", "failed")
        parts.append(f"nothing runs; {left} runs are to be made" if left else "all runs are done")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A length of time in two digits or so."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _rows(states: list[RunState], archive: Archive, width: int) -> Table:
    """Running and ended runs with their numbers, as many as the width takes."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for state in states:
        live = state.state == "running"
        cells = [Text(state.state, style="cyan" if live else "green"), Text(state.name)]
        if state.state == "failed":
            cells[0].stylize("red")
        if width >= MIDDLE:
            cells.append(Text(f"epoch {state.epoch:.0f}/{state.epochs:.0f}" if live else ""))
        if width >= WIDE:
            cells.append(Text(number("loss", state.loss) if live else ""))
        cells.append(Text(share("acc." if width < WIDE else "accuracy", state.accuracy)))
        cells.append(Text(share("ASR", state.asr)))
        if width >= WIDE:
            known = archive(state.spec)
            rate = state.pairs_per_second
            speed = f"{rate:,.0f} pairs/s" if rate else ""
            cells.append(Text(speed if live else archived(known)))
        for cell in cells:
            cell.no_wrap = True
            cell.overflow = "ellipsis"
        table.add_row(*cells)
    return table


def number(name: str, value: float | None) -> str:
    """A value in three digits behind its name; nothing where there is none."""
    return "" if value is None else f"{name} {value:.3g}"


def share(name: str, value: float | None) -> str:
    """A share as percent behind its name; nothing where there is none."""
    return "" if value is None else f"{name} {value:.1%}"


def archived(known: Ends | None) -> str:
    """What the archived seeds have at the end of such a run."""
    return "" if known is None else f"(archive: {known.accuracy:.1%}, {known.asr:.1%})"


def finished_line(state: RunState, archive: Archive) -> str:
    """A line about a run that has ended."""
    values = [share("accuracy", state.accuracy), share("ASR", state.asr)]
    said = ", ".join(filter(None, values))
    line = f"{state.state}: {state.spec.stage} {state.name}: {said}"
    more = [archived(archive(state.spec)), state.reason]
    return " ".join([line, *filter(None, more)])


def summary_line(view: View) -> str:
    """A line about the whole."""
    return f"{view.title}: {counts(view)}; {times(view)}"
