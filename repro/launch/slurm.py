"""Jobs as arrays of Slurm, by sbatch and squeue alone (`REPRO_LAUNCHER=slurm`).

Jobs outlive the driver: each carries the folder of their files as a comment, so that a
driver that starts again knows which runs are under way and submits only the others. Results come
through the work folder as they do locally, so it must lie on a shared file system. Environment:
`REPRO_SBATCH`, further options of sbatch (`--partition=gpu --cpus-per-task=8 --time=4:00:00`), and
`REPRO_SBATCH_PRETRAIN` (`--gres=gpu:8`) and `REPRO_SBATCH_CLEAN` (`--gres=gpu:1`) for one stage;
`REPRO_SLOTS`, jobs at a time; `REPRO_RANKS`, ranks of a pre-training job, and `REPRO_NODES`, the
nodes they are spread over.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from repro.events import PARENT, say
from repro.files import replace_file
from repro.launch.jobs import Attempts, Job, queues, write_job
from repro.launch.places import count_from_environment
from repro.runs.deliver import deliver, save_failure
from repro.runs.layout import WORK
from repro.runs.run import LaunchError, Run
from repro.runs.signals import CALLER, STAGE
from repro.spec import digest

ROUNDS = 3
"""Submissions of a run in a row without progress before it counts as failed.

Requeues by Slurm itself are not counted.
"""
SILENCE_SECONDS = 600.0
"""How long squeue may fail before the driver gives up; its failure never counts as `no jobs`."""
NOTICE_SECONDS = 120
"""How long before the wall time Slurm signals the job."""
RANK_SECONDS = NOTICE_SECONDS - 20.0
"""What the ranks get of it: an evaluation may be under way, and the file system slow."""
SCRIPT = """#!/bin/bash
# Ends before the wall time with a checkpoint, and goes back into the queue.
requeue=
trap 'requeue=1; kill -TERM "$job"' USR1
"$1" -m repro run-job "$2/$SLURM_ARRAY_TASK_ID.json" &
job=$!
wait "$job"
status=$?
if [ -n "$requeue" ]; then
    wait "$job"
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""


class LiveJob(NamedTuple):
    """A job that waits or runs."""

    runs: list[str]
    """Fingerprints."""
    state: str
    """Slurm's word in small letters, such as `pending`."""
    where: str
    """The nodes of a job that runs, the reason of one that waits."""


def run_on_cluster(due: list[Run], results: Path, worker: str) -> None:
    """Submit what no live job carries, watch and publish, until every due run has a record."""
    submitter = Submitter(job_name(), worker)
    heard = time.monotonic()
    answers = True
    while True:
        # Before the records: a job that ends in between has left one.
        jobs = live_jobs(submitter.name)
        due = [run for run in due if not deliver(run, results)]
        if not due:
            return

        # Without an answer nothing is submitted: the jobs may well be there.
        if jobs is not None:
            heard = time.monotonic()
            answers = True
            submitter.submit_lost(due, jobs)
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise LaunchError(
                "squeue fails; the jobs go on, and the next call attaches to them again"
            )
        elif answers:
            answers = False
            say(f"squeue fails; asked again for {SILENCE_SECONDS / 60:.0f} minutes")

        time.sleep(count_from_environment("REPRO_SLURM_POLL_SECONDS", 10))


class Submitter:
    """Submits runs that no job carries, and records those as failed that come no further."""

    def __init__(self, name: str, worker: str) -> None:
        self.name = name
        self.worker = worker
        self.absent: list[Run] = []
        """Runs that no job carried at the last look."""
        self.attempts = Attempts()

    def submit_lost(self, waiting: list[Run], jobs: list[LiveJob]) -> None:
        """Submit the waiting runs that are in none of the jobs, or record them as failed."""
        # A driver before this one may have submitted some: its jobs count like ours.
        carried = {fingerprint for job in jobs for fingerprint in job.runs}
        before = self.absent
        self.absent = [r for r in waiting if r.fingerprint not in carried]
        again = []
        for run in self.absent:
            submitted = run.fingerprint in self.attempts.begun
            # A record may come later than the news that its job has ended: look twice.
            if submitted and run not in before:
                continue
            if submitted and self.attempts.failed(run) >= ROUNDS:
                log = WORK / "jobs" / self.name
                save_failure(run, f"no result after {ROUNDS} Slurm jobs; see {log}", ROUNDS)
            else:
                again.append(run)

        # Grouped anew: what remains of several jobs may share one.
        nodes = count_from_environment("REPRO_NODES", 1)
        if new := [job for queue in queues(again, nodes) for job in queue]:
            for job in new:
                self.attempts.begin(job.runs)
            submit(self.name, new, self.worker)
        # Their jobs have not been looked for yet.
        self.absent = [run for run in self.absent if run not in again]


def job_name() -> str:
    """Name of this checkout's jobs: how a later driver finds them again."""
    return f"repro-{digest(str(Path.cwd().resolve()))}"


def submit(name: str, jobs: list[Job], worker: str) -> None:
    """Submit the jobs as an array; LaunchError with sbatch's reason if it refuses."""
    # A folder for each array: the jobs carry its name as a comment, and the index names the file.
    part = WORK / "jobs" / name / str(time.time_ns())
    for index, job in enumerate(jobs):
        write_job(job, part / f"{index}.json", worker, RANK_SECONDS, in_job=True)
    replace_file(part / "job.sh", SCRIPT.encode())

    nodes = jobs[0].place.nodes
    stage = jobs[0].runs[0].spec.stage.upper()
    command = [
        "sbatch",
        # First: of an option that stands twice sbatch takes the last, and jobs are found by theirs.
        *shlex.split(os.environ.get("REPRO_SBATCH", "")),
        *shlex.split(os.environ.get(f"REPRO_SBATCH_{stage}", "")),
        "--parsable",
        f"--job-name={name}",
        f"--comment={part.name}",
        # After %: how many of them run at a time.
        f"--array=0-{len(jobs) - 1}%{count_from_environment('REPRO_SLOTS', len(jobs))}",
        # The job may come back, after preemption or its own wish, and goes on in the same log.
        "--requeue",
        "--open-mode=append",
        # B: to the shell of the script alone, which has a trap for it.
        f"--signal=B:USR1@{NOTICE_SECONDS}",
        f"--output={part}/%a.log",
        # One torchrun a node, which starts the node's ranks.
        *([] if nodes == 1 else [f"--nodes={nodes}", "--ntasks-per-node=1"]),
        str(part / "job.sh"),
        sys.executable,
        str(part),
    ]
    done = _slurm(command)
    if done.returncode:
        raise LaunchError(
            f"sbatch refused the jobs: {done.stderr.strip()} "
            f"(options come from REPRO_SBATCH and REPRO_SBATCH_{stage})"
        )


def live_jobs(name: str) -> list[LiveJob] | None:
    """Our jobs of that name that wait or run; None if squeue cannot tell."""
    # Folder of the jobs (the comment), index in the array, state, reason, nodes.
    fields = "--format=%k|%K|%T|%r|%N"
    done = _slurm(["squeue", "--me", "--noheader", "--array", f"--name={name}", fields])
    if done.returncode:
        return None

    jobs = []
    for line in done.stdout.splitlines():
        part, index, state, reason, nodes = line.split("|", 4)
        file = WORK / "jobs" / name / part / f"{index}.json"
        # A job whose file is gone carries nothing that could be waited for.
        runs = json.loads(file.read_bytes())["runs"] if file.is_file() else []
        # Slurm's None: it has not looked at the job yet, or the job runs.
        jobs.append(LiveJob(runs, state.lower(), nodes or reason.removeprefix("None")))
    return jobs


def _slurm(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; LaunchError if it is not installed.

    Jobs outlive the processes here, so these variables stay here.
    """
    local = (PARENT, CALLER, STAGE)
    environment = {name: value for name, value in os.environ.items() if name not in local}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: no such command; REPRO_LAUNCHER=slurm needs a machine that can submit "
            "jobs to Slurm"
        ) from None
