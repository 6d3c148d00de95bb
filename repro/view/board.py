"""The table of a study's runs, for `status` and for the board.

The board is a thread that looks at the files and draws while something runs, and harms nothing: a
table that redraws on a terminal, lines elsewhere.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from repro.runs.signals import CALLER
from repro.view.archive import Archive, Ends
from repro.view.states import RunState
from repro.view.watched import View, Watched

LOOK_SECONDS = 2.0
"""Between two pictures on a terminal."""
LINE_SECONDS = 60.0
"""Between two lines about the whole where there is no terminal."""
HEADS = ("", "run", "epoch", "loss", "accuracy", "ASR", "speed", "left")
STYLES = {"running": "cyan", "failed": "red", "stopped": "yellow"}


def table(view: View, height: int | None = None) -> Group:
    """The whole in a line, every run that is under way, and warnings; with `height` in so many
    lines, of which long ones are cut.
    """
    line = partial(Text, no_wrap=True, overflow="ellipsis") if height is not None else Text
    lines: list[Table | Text] = [line(summary_line(view), style="bold")]
    rows = [state for state in view.states if state.state not in ("done", "waiting")]
    # Summary and header stand above the rows; a terminal scrolls when its last line is written.
    room = len(view.states) * 2 if height is None else max(0, height - 5)
    if rows[:room]:
        grid = Table(*HEADS, box=None)
        for state in rows[:room]:
            cells = [Text(cell, no_wrap=True, overflow="ellipsis") for cell in _cells(state)]
            grid.add_row(*cells, style=STYLES.get(state.state, ""))
        lines.append(grid)
    warned = [state for state in view.states if state.warning and state.state != "done"]
    for state in warned[: max(0, room - len(rows))]:
        lines.append(line(f"! {state.name}: {state.warning}", style="yellow"))
    return Group(*lines)


def _cells(state: RunState) -> list[str]:
    """A row of the table."""
    rate, left = state.pairs_per_second, state.left
    return [
        f"{state.state} {state.where and f'({state.where})'}".strip(),
        f"{state.spec.stage} {state.name}",
        f"{state.epoch:.1f}/{state.spec.schedule.epochs}",
        "" if state.loss is None else f"{state.loss:.3g}",
        share(state.accuracy),
        share(state.asr),
        f"{rate:,.0f} pairs/s" if rate else "",
        "" if left is None or state.state == "failed" else duration(left),
    ]


def summary_line(view: View) -> str:
    """A line about the whole: the time left first, for a narrow terminal cuts its end."""
    times = []
    if view.left is not None:
        end = datetime.fromtimestamp(time.time() + view.left)
        day = "" if end.date() == datetime.now().date() else f"{end:%a} "
        times.append(f"about {duration(view.left)} left (ends {day}{end:%H:%M})")
    if view.began is not None:
        times.append(f"{duration(time.time() - view.began)} gone")
    if not times:
        due = view.count("waiting", "stopped", "failed")
        times = [f"nothing runs; {due} runs are to be made" if due else "all runs are done"]

    counts = []
    for stage, name in (("pretrain", "pre-train"), ("clean", "clean")):
        if number := view.count(stage=stage):
            counts.append(f"{name} {view.count('done', stage=stage)}/{number}")
    for state in ("failed", "stopped", "queued"):
        if number := view.count(state):
            counts.append(f"{number} {state}")
    if view.stage and not view.count("running"):
        counts.append(f"stage {view.stage}")
    return f"{view.title}: {', '.join(times)}; {' · '.join(counts)}"


def duration(seconds: float) -> str:
    """A length of time in two digits or so."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def share(value: float | None) -> str:
    """A share as percent; nothing where there is none."""
    return "" if value is None else f"{value:.1%}"


def finished_line(state: RunState, known: Ends | None) -> str:
    """A line about a run that has ended, with what the archived seeds have at its end."""
    line = f"{state.state}: {state.spec.stage} {state.name}"
    if state.accuracy is not None and state.asr is not None:
        line += f": accuracy {state.accuracy:.1%}, ASR {state.asr:.1%}"
    if known:
        of = f"mean of {known.seeds} archived seeds"
        line += f" ({of}: {known.accuracy:.1%}, {known.asr:.1%})"
    return f"{line} {state.reason}".strip()


class Board:
    """Draws what `look` sees: a table that redraws on a terminal, lines elsewhere."""

    def __init__(
        self, watched: Watched, look: Callable[[], View], said: Callable[[], list[str]] = list
    ) -> None:
        """`said` gives lines to print that were said since it was called last."""
        self.watched = watched
        self.look = look
        self.said = said
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.archive: Archive | None = None
        self.shown: set[str] | None = None
        self.printed = 0.0

    @property
    def redraws(self) -> bool:
        """Whether the output is a terminal that can move its cursor."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def run(self, stop: threading.Event) -> None:
        """Draw until `stop` is set, and once more then."""
        # Nothing of what goes wrong here is worth the runs: a full disk, a closed terminal.
        try:
            try:
                self._draw(stop)
            except OSError:
                # The reader of the output has gone. What is said is still noted.
                silence()
                self.console = Console(file=sys.stdout)
                self._draw(stop)
        except Exception as error:
            with suppress(OSError):
                name = type(error).__name__
                print(f"repro: the board ended ({name}: {error}); the runs go on", file=sys.stderr)

    def _draw(self, stop: threading.Event) -> None:
        redraws = self.redraws
        live = Live(console=self.console, auto_refresh=False, transient=True)
        # What others print in this process goes above the table.
        with live if redraws else nullcontext():
            ended = False
            while not ended:
                ended = stop.wait(LOOK_SECONDS)
                # Live writes nothing to a terminal that was closed, and says nothing of it.
                if redraws and not self.redraws:
                    raise OSError("the terminal was closed")
                view = self.news()
                if view and redraws:
                    live.update(table(view, self.console.size.height), refresh=True)
                elif view and time.monotonic() - self.printed >= LINE_SECONDS:
                    self.printed = time.monotonic()
                    self.say(summary_line(view))
                    for state in view.states:
                        if state.state == "running" and state.warning:
                            self.say(f"warning: {state.name}: {state.warning}")

    def news(self) -> View | None:
        """Print what was said and which runs have ended since the last look; returns this one, or
        None where the machine refuses it, as by a full disk.
        """
        view = None
        with suppress(OSError):
            view = self.look()
        lines: list[str] = []
        with suppress(OSError):
            lines = self.said()
        for line in lines:
            self.say(line)
        if view is None:
            return None
        ended = {state.name: state for state in view.states if state.state in ("done", "failed")}
        # Those of earlier calls are no news.
        for name in ended.keys() - (self.shown if self.shown is not None else ended.keys()):
            if self.archive is None:
                self.archive = Archive(self.watched.profile.name)
            spec = ended[name].spec
            like = self.archive.like(spec, self.watched.study)
            known = Ends.of_last(like, spec.schedule.learning_rate)
            self.say(finished_line(ended[name], known))
        self.shown = set(ended)
        return view

    def say(self, line: str) -> None:
        """Print a line as it is, however long; above the table if there is one."""
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()


def silence() -> None:
    """Send what this process still prints nowhere: the reader of its output has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def drawing(board: Board) -> Iterator[None]:
    """Have the board drawn inside the block."""
    stop = threading.Event()
    thread = threading.Thread(target=board.run, args=(stop,), name="board")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # However long it takes: Python aborts where a thread is left inside a library at the end.
        thread.join()


@contextmanager
def watching(watched: Callable[[], Watched]) -> Iterator[None]:
    """Draw the runs that the block makes, unless a call of `reproduce` draws them."""
    if CALLER in os.environ:
        yield
        return
    runs = watched()
    began = time.time()
    with drawing(Board(runs, lambda: runs.look(began))):
        yield
