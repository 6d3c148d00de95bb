"""Progress of a stage: a live line on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status

from repro.files import read_json
from repro.launch.packs import Pack, cost
from repro.runs.run import Run

LINE_SECONDS = 30.0


class Progress:
    """Progress of `due` runs, out of `runs` of which the others are up to date."""

    def __init__(self, runs: list[Run], due: list[Run]) -> None:
        self.console = Console()
        self.due = due
        self.up_to_date = len(runs) - len(due)
        self.started = self.printed = time.monotonic()
        # Work of earlier calls says nothing of the speed of this one.
        self.done_at_start = sum(cost(run) * fraction(run) for run in due)
        self.live = Status("", console=self.console)

    def __enter__(self) -> Self:
        cells = sorted({f"{run.spec.stage} {run.spec.cell}" for run in self.due})
        names = ", ".join(cells) or "all runs"
        self.say(f"{names}: {len(self.due)} to run, {self.up_to_date} up to date")
        if self.console.is_terminal and self.due:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        if self.due:
            minutes = (time.monotonic() - self.started) / 60
            self.say(f"{self._num_done()} of {len(self.due)} runs done in {minutes:.1f} min")

    def say(self, line: str) -> None:
        """Print a line, unbroken, above the live one."""
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def show(self, packs: list[Pack], elsewhere: str = "") -> None:
        """Refresh from the work folders: `packs` run here, `elsewhere` describes the others."""
        due = time.monotonic() - self.printed >= LINE_SECONDS
        if not due and not self.console.is_terminal:
            return
        self.printed = time.monotonic()

        total, done = sum(map(cost, self.due)), sum(cost(run) * fraction(run) for run in self.due)
        gained, elapsed = done - self.done_at_start, time.monotonic() - self.started
        left = "time left unknown"
        if gained > 0:
            left = f"about {elapsed * (total - done) / gained / 60:.1f} min left"
        line = f"{self._num_done()} of {len(self.due)} runs done, "
        line += ", ".join(filter(None, (elsewhere, left)))
        for pack in packs:
            # Runs of a batch go one after another: the first without an end is at work.
            run = next((run for run in pack.runs if run.finished() is None), pack.runs[-1])
            status = read_status(run)
            line += f"; {run.name} step {status.get('step', 0)}/{status.get('total_steps', 0)}"
        if self.console.is_terminal:
            self.live.update(line)
        else:
            self.say(line)

    def _num_done(self) -> int:
        return sum((run.work_dir / "record.json").exists() for run in self.due)


def read_status(run: Run) -> dict[str, Any]:
    """The worker's `status.json`, or nothing while there is none."""
    return read_json(run.work_dir / "status.json") or {}


def fraction(run: Run) -> float:
    """Share of the run's steps that is done."""
    if (run.work_dir / "record.json").exists():
        return 1.0
    status = read_status(run)
    return status["step"] / status["total_steps"] if status.get("total_steps") else 0.0
