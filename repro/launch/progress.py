"""Progress of a stage: a line every half minute."""

from __future__ import annotations

import time
from typing import Any, Self

from repro.events import say
from repro.files import read_json
from repro.launch.packs import Pack, cost
from repro.runs.run import Run

LINE_SECONDS = 30.0


class Progress:
    """Progress of `due` runs, out of `runs` of which the others are up to date."""

    def __init__(self, runs: list[Run], due: list[Run]) -> None:
        self.due, self.up_to_date = due, len(runs) - len(due)
        self.started = self.printed = time.monotonic()
        # Work of earlier calls says nothing of the speed of this one.
        self.done_at_start = self._done()[1]

    def __enter__(self) -> Self:
        cells = sorted({f"{run.spec.stage} {run.spec.cell}" for run in self.due})
        names = ", ".join(cells) or "all runs"
        say(f"{names}: {len(self.due)} to run, {self.up_to_date} up to date")
        return self

    def __exit__(self, *error: object) -> None:
        if self.due:
            minutes = (time.monotonic() - self.started) / 60
            say(f"{self._done()[0]} of {len(self.due)} runs done in {minutes:.1f} min")

    def show(self, packs: list[Pack], elsewhere: str = "") -> None:
        """Print where the runs are: `packs` run here, `elsewhere` describes the others."""
        if time.monotonic() - self.printed < LINE_SECONDS:
            return
        self.printed = time.monotonic()

        ended, done = self._done()
        gained, elapsed = done - self.done_at_start, self.printed - self.started
        left = "time left unknown"
        if gained > 0:
            minutes = elapsed * (sum(map(cost, self.due)) - done) / gained / 60
            left = f"about {minutes:.1f} min left"
        line = f"{ended} of {len(self.due)} runs done, "
        line += ", ".join(filter(None, (elsewhere, left)))
        for pack in packs:
            # Runs of a batch go one after another: the first without an end is at work.
            run = next((run for run in pack.runs if not has_ended(run)), pack.runs[-1])
            status = read_status(run)
            line += f"; {run.name} step {status.get('step', 0)}/{status.get('total_steps', 0)}"
        say(line)

    def _done(self) -> tuple[int, float]:
        """Runs that have ended, and the cost of what is done of all."""
        ended, done = 0, 0.0
        for run in self.due:
            status = read_status(run)
            share = status["step"] / status["total_steps"] if status.get("total_steps") else 0.0
            ended += has_ended(run)
            done += cost(run) * (1.0 if has_ended(run) else share)
        return ended, done


def has_ended(run: Run) -> bool:
    """Whether the run has a record in its work folder."""
    return (run.work_dir / "record.json").exists()


def read_status(run: Run) -> dict[str, Any]:
    """The worker's `status.json`, or nothing while there is none."""
    return read_json(run.work_dir / "status.json") or {}
