"""Which failures count: those of a run that came no further since the last one.

A run of days on eight GPUs meets a bad memory cell or a lost node more than once; a fault of its
own it meets at the same place again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from repro.runs.run import Run


class Tries:
    """Failures in a row, by run."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        # By run, those that started in one process with it, and how far they had come then.
        self.begun: dict[str, tuple[Sequence[Run], tuple[int, int]]] = {}

    def begin(self, runs: Sequence[Run]) -> None:
        """These runs start in one process: where one of them comes further, it counts for all."""
        reached = progress(runs)
        for run in runs:
            self.begun[run.fingerprint] = runs, reached

    def failed(self, run: Run) -> int:
        """Note an end without a result of the run; its failures in a row, this one included."""
        runs, before = self.begun[run.fingerprint]
        # Further than at its start: whatever ended it is not met again at the same place.
        if progress(runs) > before:
            self.failures[run.fingerprint] = 0
        self.failures[run.fingerprint] += 1
        return self.failures[run.fingerprint]


def progress(runs: Sequence[Run]) -> tuple[int, int]:
    """How far runs have come: how many have ended, and the steps in the others' checkpoints."""
    ended = [run for run in runs if (run.work_dir / "record.json").exists()]
    return len(ended), sum(saved_step(run) for run in runs if run not in ended)


def saved_step(run: Run) -> int:
    """Step of the run's newest checkpoint; 0 without any."""
    names = [path.name for path in run.work_dir.glob("checkpoint-*")]
    return max((int(name.partition("-")[2]) for name in names), default=0)
