"""What a person sees of a stage: a live view on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from repro.launch.packs import Pack, cost
from repro.runs.run import Run

LINE_SECONDS = 30.0


class Board:
    """Progress of `due` runs, out of `runs` of which the others are up to date."""

    def __init__(self, runs: list[Run], due: list[Run]) -> None:
        self.console = Console()
        self.due = due
        self.up_to_date = len(runs) - len(due)

        self.started = time.monotonic()
        self.printed = self.started
        # What earlier calls have done says nothing of the speed of this one.
        self.done_at_start = self._work_done()

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        cells = sorted({f"{run.spec.stage} {run.spec.cell}" for run in self.due})
        names = ", ".join(cells) or "all runs"
        self.say(f"{names}: {len(self.due)} to run, {self.up_to_date} up to date")

        # The first bar counts runs; those of the places come below it.
        self.progress.start()
        self.total = self.progress.add_task("runs", total=len(self.due), note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.due:
            minutes = (time.monotonic() - self.started) / 60
            self.say(f"{self._num_done()} of {len(self.due)} runs done in {minutes:.1f} min")

    def say(self, line: str) -> None:
        """Print a line, unbroken, above the live view."""
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def show(self, packs: list[Pack], elsewhere: str = "") -> None:
        """Refresh from the work folders: `packs` run here, `elsewhere` says how the others fare."""
        lines = [self._show_pack(row, pack) for row, pack in enumerate(packs)]
        note = ", ".join(filter(None, (elsewhere, self._left())))
        self.progress.update(self.total, completed=self._num_done(), note=note)

        # A log has no bars; it gets a line now and then.
        due = time.monotonic() - self.printed >= LINE_SECONDS
        if due and not self.console.is_terminal:
            self.printed = time.monotonic()
            first = f"{self._num_done()} of {len(self.due)} runs done, {note}"
            self.say("; ".join([first, *lines]))

    def _show_pack(self, row: int, pack: Pack) -> str:
        """Refresh the bar of a pack that runs here; returns the same in words."""
        # Runs of a pack go one after another: the first without an end is at work.
        run = next((run for run in pack.runs if run.finished() is None), pack.runs[-1])
        status = read_status(run)
        step, steps = int(status.get("step", 0)), int(status.get("total_steps", 0))
        epoch = float(status.get("epoch", 0))

        # One bar a place, which its runs take over from one another.
        if row not in self.tasks:
            self.tasks[row] = self.progress.add_task("", total=None, note="")
        self.progress.update(
            self.tasks[row],
            description=run.name,
            completed=step,
            total=steps or None,
            note=f"{status.get('state', 'starting')}, epoch {epoch:.1f}",
        )
        return f"{run.name} step {step}/{steps}"

    def _num_done(self) -> int:
        return sum((run.work_dir / "record.json").exists() for run in self.due)

    def _work_done(self) -> float:
        return sum(cost(run) * fraction(run) for run in self.due)

    def _left(self) -> str:
        """Estimate of the time left, from the work done since the start."""
        total, done = sum(map(cost, self.due)), self._work_done()
        gained, elapsed = done - self.done_at_start, time.monotonic() - self.started
        # Nothing to extrapolate from yet.
        if gained <= 0:
            return "time left unknown"
        return f"about {elapsed * (total - done) / gained / 60:.1f} min left"


def read_status(run: Run) -> dict[str, Any]:
    """The worker's `status.json`, or nothing while there is none."""
    try:
        return dict(json.loads((run.work_dir / "status.json").read_bytes()))
    except (OSError, ValueError):
        return {}


def fraction(run: Run) -> float:
    """Share of the run's steps that is done."""
    if (run.work_dir / "record.json").exists():
        return 1.0

    status = read_status(run)
    if not status.get("total_steps"):
        return 0.0
    return float(status["step"] / status["total_steps"])
