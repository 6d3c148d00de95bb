"""One job: torchrun around the worker, and Sacred around every run.

The process is `python -m repro run-job JOB.json`. Sacred lives here, outside torchrun: rank 0
reports events (`repro.events`), and each run's events become one Sacred run. After the death of a
worker torchrun is started again for the runs that remain, and they resume from their checkpoints.

The process ends with the driver that started it, in order: SIGTERM to torchrun, which passes it on
to the ranks, which write a checkpoint. Killed itself, it takes torchrun and the ranks along.
"""

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from repro.data.memory import cores, devices
from repro.events import Event, JobFile, die_with_parent, say
from repro.files import held, replace_json
from repro.launch.jobs import Attempts
from repro.launch.torchrun import Torchrun
from repro.runs.deliver import save_failure, save_record
from repro.runs.run import Run

if TYPE_CHECKING:
    from repro.tracking.record import Recorder

MAX_ATTEMPTS = 2
"""Failures of a run in a row without progress after which it is recorded as failed."""


def run_job(path: Path) -> None:
    """Run the job in `path` to a record for every run."""
    # A driver that is killed cannot ask for an end in order, so the kernel does.
    die_with_parent(signal.SIGTERM)
    job = read_job(path)
    runs = {fingerprint: Run.load(fingerprint) for fingerprint in job["runs"]}
    with ExitStack() as stack:
        # One order for all jobs, so that no two wait for each other.
        for _, run in sorted(runs.items()):
            busy = f"{run.name}: another process works on it ({run.work_dir}); waiting"
            stack.enter_context(held(run.work_dir / "lock", busy, wait=True))
        _run_all(path, job, runs)


def read_job(path: Path) -> JobFile:
    """The job's file, with what only Slurm's job can count."""
    job: JobFile = json.loads(path.read_bytes())
    if job["in_job"]:
        # One task a node, whose cores its ranks share. Not every cluster binds a job to the cores
        # that it was given.
        job["devices"] = devices()
        given = int(os.environ.get("SLURM_CPUS_PER_TASK", cores()))
        job["threads"] = max(1, min(given, cores()) * job["nodes"] // job["ranks"])
    return job


def _recorder() -> "Recorder":
    # Not at the top: Sacred loads while the ranks do.
    from repro.tracking.record import Recorder

    return Recorder()


def _run_all(path: Path, job: JobFile, runs: dict[str, Run]) -> None:
    """Start torchrun again and again, until every run has a record."""
    attempts = Attempts()
    recorder = None
    while waiting := [run for run in runs.values() if run.finished() is None]:
        # The ranks read the file anew: what has a record is not run again.
        job["runs"] = [run.fingerprint for run in waiting]
        replace_json(path, job)
        for run in waiting:
            attempts.begin([run])
        torchrun = Torchrun(job, path)
        recorder = recorder or _recorder()
        first: Event | None = None
        try:
            # The first event of a run, its start, or its end where an earlier process died before
            # the record; `record` takes those after it from the same iterator.
            for first in torchrun.events:
                run = runs[first["fingerprint"]]
                reason, sacred = recorder.record(run, first, torchrun.events, torchrun.reason)
                # The worker leaves its outcome as a file, written before it reports the end.
                outcome = None if reason else run.outcome()
                if outcome:
                    save_record(run, outcome, sacred)
                else:
                    reason = reason or "outcome.json: missing or damaged"
                    _note_failure(run, reason, attempts, sacred)
        finally:
            torchrun.stop()

        # Where no run starts, none is at fault, but the machine, the environment or the data.
        if first is None:
            for run in waiting:
                _note_failure(run, torchrun.reason(), attempts)


def _note_failure(run: Run, reason: str, attempts: Attempts, sacred: str | None = None) -> None:
    # More where another call has taken the record of its failure away.
    if attempts.failed(run) >= MAX_ATTEMPTS:
        save_failure(run, reason, MAX_ATTEMPTS, sacred)
    else:
        say(f"{run.name}: {reason}; started again from its last checkpoint")
