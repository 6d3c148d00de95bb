"""Jobs on this machine: one process a device, watched until every due run has a record.

The driver is asked to stop by a signal and passes it down, so that every rank writes a checkpoint.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from repro.events import PARENT, end, say
from repro.launch.jobs import Attempts, Job, queues, write_job
from repro.runs.deliver import deliver, save_failure
from repro.runs.layout import WORK
from repro.runs.run import Run

MAX_JOBS = 2
"""Processes in a row that may die over a run without progress before it counts as failed."""
RANK_SECONDS = 20.0
"""Time for ranks to write a checkpoint and end when they are asked to stop."""
STOP_SECONDS = RANK_SECONDS + 10.0
"""Time for a job to end when it is asked to stop, its ranks included."""
POLL_SECONDS = 0.2


def run_here(due: list[Run], results: Path, worker: str) -> None:
    """Start, watch and publish until every due run has a record and every process has ended."""
    waiting = queues(due)
    attempts = Attempts()
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    try:
        while due or running:
            for device, queue in enumerate(waiting):
                if device in running and running[device][1].poll() is not None:
                    job, process = running.pop(device)
                    # Before the other jobs of the device, as it began before them.
                    queue[:0] = _again(job, process.returncode, attempts)
                if device not in running and queue:
                    job = queue.pop(0)
                    attempts.begin(job.runs)
                    running[device] = job, _start(job, worker)

            due = [run for run in due if not deliver(run, results)]
            time.sleep(POLL_SECONDS)
    finally:
        # Also after an error or a stop signal: no process outlives its driver.
        end([process for _, process in running.values()], STOP_SECONDS)


def _again(job: Job, status: int, attempts: Attempts) -> list[Job]:
    """What is left of a job whose process has ended; its runs fail after the last attempt."""
    # A job records the runs that fail in it: without a record it died itself.
    left = tuple(run for run in job.runs if run.finished() is None)
    reason = f"its process ended with {f'signal {-status}' if status < 0 else f'status {status}'}"
    counts = [attempts.failed(run) for run in left]
    if max(counts, default=0) < MAX_JOBS:
        for run in left:
            say(f"{run.name}: {reason}; started again")
        return [job._replace(runs=left)] if left else []
    for run in left:
        save_failure(run, f"{reason}; see {job.log}", MAX_JOBS)
    return []


def _start(job: Job, worker: str) -> subprocess.Popen[bytes]:
    """Start the process of a job, its output going to the job's log."""
    # Another driver may start the same runs, hence the process id.
    path = WORK / "jobs" / f"{job.runs[0].fingerprint}.{os.getpid()}.json"
    write_job(job, path, worker, RANK_SECONDS)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(job.place.devices)}
    with job.log.open("ab") as log:
        # Its own process group: Ctrl-C reaches the driver alone, which stops the jobs in order.
        return subprocess.Popen(
            [sys.executable, "-m", "repro", "run-job", str(path)],
            env=os.environ | {PARENT: str(os.getpid())} | devices,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
