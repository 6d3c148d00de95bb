"""Jobs: a process loads data and evaluates each start model once for all its runs.
`Attempts` counts the failures of runs.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from repro.data.memory import devices
from repro.events import JobFile
from repro.files import replace_json
from repro.launch.places import Place, shared_places, whole_place
from repro.plan.queue import cost
from repro.runs.layout import WORK
from repro.runs.run import Run


class Job(NamedTuple):
    """Runs of one process, in order, and where they go."""

    runs: tuple[Run, ...]
    place: Place

    @property
    def log(self) -> Path:
        """Where the output of the process goes: the first run's fingerprint names it."""
        return WORK / "jobs" / f"{self.runs[0].fingerprint}.log"


def write_job(
    job: Job,
    path: Path,
    worker: str,
    grace_seconds: float,
    in_job: bool = False,
    work: Path = WORK,
) -> JobFile:
    """Write what `python -m repro run-job` reads; returns the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: JobFile = {
        "runs": [run.fingerprint for run in job.runs],
        "work": work.as_posix(),
        "worker": worker,
        "in_job": in_job,
        "grace_seconds": grace_seconds,
        "devices": list(job.place.devices),
        "ranks": job.place.ranks,
        "threads": job.place.threads,
        "nodes": job.place.nodes,
    }
    replace_json(path, content)
    return content


def queues(runs: list[Run], nodes: int | None = None) -> list[list[Job]]:
    """Jobs in the order of their start, one list for each process that runs at a time.

    Short runs are shared out among all processes. A pre-training takes all GPUs of the machine, or
    `nodes` of a cluster's, and they go one after another. Without GPU it has one rank and one core
    like any other run, unless REPRO_RANKS asks for more: its digits must not depend on how many
    others are due.
    """
    on_cores = nodes is None and not devices() and "REPRO_RANKS" not in os.environ
    alone = [run for run in runs if run.spec.stage == "pretrain" and not on_cores]
    shared = [run for run in runs if run not in alone]
    shared.sort(key=lambda run: cost(run.spec), reverse=True)
    placed = [[(run, whole_place(run, nodes)) for run in alone]]

    # Longest first, each to the process that has least to do so far.
    places = shared_places()
    shares: list[list[tuple[Run, Place]]] = [[] for _ in places]
    work = [0.0] * len(places)
    for run in shared:
        least = work.index(min(work))
        shares[least].append((run, places[least]))
        work[least] += cost(run.spec)
    return [_jobs(share, nodes is not None) for share in placed + shares if share]


def _jobs(placed: list[tuple[Run, Place]], on_cluster: bool) -> list[Job]:
    """Group runs that share place and data, those of one start model and size side by side."""
    groups: dict[tuple[Place, str], list[Run]] = defaultdict(list)
    for run, place in placed:
        # A process opens one store of pairs and keeps it. On a cluster each pre-training is a job
        # of its own: they go side by side, and a failure of one costs the others nothing.
        alone = run.fingerprint if run.spec.stage == "pretrain" and on_cluster else ""
        groups[place, run.inputs["pairs"]["path"] + alone].append(run)
    return [
        Job(tuple(sorted(members, key=_resident)), place) for (place, _), members in groups.items()
    ]


def _resident(run: Run) -> tuple[str, ...]:
    """Evaluation set, start model and pairs: a process keeps them while they do not change."""
    model = run.inputs["model"]["hash"] if "model" in run.inputs else ""
    return (run.spec.evaluation_key, model, str(run.spec.clean_size))


class Attempts:
    """Failures of runs in a row without progress.

    A run of days on eight GPUs meets a bad memory cell or a lost node more than once; a fault of
    its own it meets at the same step again.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        # By run, those that started in one process with it, and their progress then.
        self.begun: dict[str, tuple[Sequence[Run], tuple[int, int]]] = {}

    def begin(self, runs: Sequence[Run]) -> None:
        """These runs start in one process: progress of one of them counts for all."""
        for run in runs:
            self.begun[run.fingerprint] = runs, run_progress(runs)

    def failed(self, run: Run) -> int:
        """Note an end without a result of the run; its failures in a row, this one included."""
        runs, before = self.begun[run.fingerprint]
        if run_progress(runs) > before:
            self.failures[run.fingerprint] = 0
        self.failures[run.fingerprint] += 1
        return self.failures[run.fingerprint]


def run_progress(runs: Sequence[Run]) -> tuple[int, int]:
    """How many runs have ended, and the sum of the steps in the others' newest checkpoints."""
    others = [run for run in runs if not run.has_ended]
    steps = [
        [int(path.name.partition("-")[2]) for path in run.work_dir.glob("checkpoint-*")]
        for run in others
    ]
    return len(runs) - len(others), sum(max(each, default=0) for each in steps)
