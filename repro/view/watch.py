"""The board while something runs: a thread that looks at the files and draws, and harms nothing."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live

from repro.runs.signals import CALLER
from repro.spec import RunSpec
from repro.view.archive import Archive, Ends, archive_of_profile
from repro.view.board import block, finished_line, summary_line
from repro.view.remaining import count_model
from repro.view.watched import View, Watched

LOOK_SECONDS = 2.0
"""Between two pictures on a terminal."""
LINE_SECONDS = 60.0
"""Between two lines about the whole where there is no terminal."""

Look = Callable[[], View]


class Board:
    """Draws what `look` sees: a block that redraws on a terminal, lines elsewhere."""

    def __init__(self, watched: Watched, look: Look, said: Callable[[], list[str]] = list) -> None:
        """`said` gives lines to print that were said since it was called last."""
        self.watched = watched
        self.look = look
        self.said = said
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.archive: Archive | None = None
        self.shown: set[str] | None = None
        self.printed = 0.0
        self.stage = ""

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
        if self.redraws:
            self._redraw(stop)
            return
        while not stop.wait(LOOK_SECONDS):
            self.lines()
        self.lines()

    def _redraw(self, stop: threading.Event) -> None:
        # What others print in this process goes above the block.
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while not stop.wait(LOOK_SECONDS):
                self._check_terminal()
                self.tell()
                size = self.console.size
                if view := self._seen():
                    drawn = block(view, self.archived, size.width, size.height)
                    live.update(drawn, refresh=True)
        self._check_terminal()
        self.tell()

    def _check_terminal(self) -> None:
        """OSError if the terminal was closed: Live writes nothing then, and says nothing of it."""
        if not self.redraws:
            raise OSError("the terminal was closed")

    def lines(self) -> None:
        """Print what is new: what was said, stages, ended runs, and the whole once a minute."""
        view = self._seen()
        self.tell()
        if view is None:
            return
        if view.stage != self.stage:
            self.stage = view.stage
            if view.stage:
                self.say(f"{view.title}: stage {view.stage}")
        ended = {state.name: state for state in view.states if state.state in ("done", "failed")}
        # Those of earlier calls are no news.
        for name in ended.keys() - (self.shown if self.shown is not None else ended.keys()):
            self.say(finished_line(ended[name], self.archived))
        self.shown = set(ended)
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS:
            self.printed = now
            self.say(summary_line(view))
            for state in view.states:
                if state.state == "running" and state.warning:
                    self.say(f"warning: {state.name}: {state.warning}")
        self.console.file.flush()

    def _seen(self) -> View | None:
        """What there is to show; None where the machine refuses a look, as by a full disk."""
        with suppress(OSError):
            return self.look()
        return None

    def tell(self) -> None:
        """Print what was said, unless the machine refuses to say it."""
        lines: list[str] = []
        with suppress(OSError):
            lines = self.said()
        for line in lines:
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line as it is, however long; above the block if there is one."""
        self.console.print(line, soft_wrap=True)

    def archived(self, spec: RunSpec) -> Ends | None:
        """Accuracy and ASR of the archived seeds; they are read when they are first asked for."""
        if self.archive is None:
            self.archive = archive_of_profile(self.watched.profile.name)
        return self.archive(spec)


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
    count_model(runs.profile)
    began = time.time()
    with drawing(Board(runs, lambda: runs.look(began))):
        yield
