"""Batches of runs as Slurm job arrays, by sbatch and squeue alone (`REPRO_LAUNCHER=slurm`).

Jobs outlive the driver: each carries the folder of its batches' files as a comment, so that a
driver that starts again knows which runs are under way and submits only the others. Results come
through the work folder as they do locally, so it must lie on a shared file system. Environment:
`REPRO_SBATCH`, further options of sbatch (`--partition=gpu --cpus-per-task=8 --time=4:00:00`), and
`REPRO_SBATCH_PRETRAIN` (`--gres=gpu:8`) and `REPRO_SBATCH_CLEAN` (`--gres=gpu:1`) for one stage;
`REPRO_SLOTS`, jobs at a time; `REPRO_RANKS`, ranks of a pre-training job, and `REPRO_NODES`, the
nodes they are spread over.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from repro.events import PARENT
from repro.files import replace_file
from repro.launch.packs import Attempts, Pack, queues, write_pack
from repro.launch.places import count_from_environment
from repro.launch.progress import Progress
from repro.runs.deliver import deliver, save_failure
from repro.runs.layout import WORK
from repro.runs.run import LaunchError, Run
from repro.runs.signals import CALLER, STAGE
from repro.spec import digest

ROUNDS = 3
"""Submissions of a run in a row without progress before it counts as failed.

Requeues by Slurm itself are not counted.
"""
POLL_SECONDS = float(os.environ.get("REPRO_SLURM_POLL", "10"))
SILENCE_SECONDS = 600.0
"""How long squeue may fail before the driver gives up; its failure never counts as `no jobs`."""
NOTICE_SECONDS = 120
"""How long before the wall time Slurm signals the job."""
RANK_SECONDS = NOTICE_SECONDS - 20.0
"""What the ranks get of it: an evaluation may be under way, and the file system slow."""
SCRIPT = """#!/bin/bash
# Ends before the wall time with a checkpoint, and goes back into the queue.
requeue=
trap 'requeue=1; kill -TERM "$pack"' USR1
"$1" -m repro run-pack "$2/$SLURM_ARRAY_TASK_ID.json" &
pack=$!
wait "$pack"
status=$?
if [ -n "$requeue" ]; then
    wait "$pack"
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""


class LiveJob(NamedTuple):
    """One of our jobs that waits or runs."""

    runs: frozenset[str]
    """Fingerprints of its batch."""
    state: str
    """In Slurm's words, with the reason where it waits."""


def run_on_cluster(due: list[Run], results: Path, worker: str, progress: Progress) -> None:
    """Submit what no live job carries, watch and publish, until every due run has a record."""
    name = job_name()
    waiting = {run.fingerprint: run for run in due}
    submitter = Submitter(name, worker)

    heard = time.monotonic()
    while True:
        # Before the records: a job that ends in between has left one.
        jobs = live_jobs(name)
        waiting = {key: run for key, run in waiting.items() if not deliver(run, results)}
        if not waiting:
            return

        # Without an answer nothing is submitted: the jobs may well be there.
        if jobs is not None:
            heard = time.monotonic()
            submitter.submit_lost(waiting, jobs)
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise LaunchError(
                "squeue fails; the jobs go on, and the next call attaches to them again"
            )

        # Progress counts runs by their records; jobs only by Slurm's states.
        states = Counter(job.state for job in jobs or ())
        counts = [f"{count} {state}" for state, count in sorted(states.items())]
        progress.show([], ", ".join(counts) or "no jobs in the queue yet")
        time.sleep(POLL_SECONDS)


class Submitter:
    """Submits runs that no job carries, and records those as failed that come no further."""

    def __init__(self, name: str, worker: str) -> None:
        self.name, self.worker = name, worker
        self.submitted: set[str] = set()
        """Fingerprints, as in `absent`."""
        self.absent: set[str] = set()
        self.attempts = Attempts()

    def submit_lost(self, waiting: dict[str, Run], jobs: list[LiveJob]) -> None:
        """Submit the waiting runs that are in none of the jobs, or record them as failed."""
        # A driver before this one may have submitted some: its jobs count like ours.
        carried = frozenset[str]().union(*(job.runs for job in jobs))
        absent, again = [key for key in waiting if key not in carried], []
        for key in absent:
            # A record may come later than the news that its job has ended: look twice.
            if key in self.submitted and key not in self.absent:
                continue
            if key not in self.submitted or self.attempts.failed(waiting[key]) < ROUNDS:
                again.append(waiting[key])
                continue
            log = WORK / "packs" / self.name
            save_failure(waiting[key], f"no result after {ROUNDS} Slurm jobs; see {log}", ROUNDS)
        self.absent = set(absent)
        if not again:
            return

        # Grouped anew: what remains of several batches may share one.
        nodes = count_from_environment("REPRO_NODES", 1)
        packs = [pack for queue in queues(again, nodes) for pack in queue]
        for pack in packs:
            self.attempts.begin(pack.runs)
        submit(self.name, packs, self.worker)
        self.submitted |= {run.fingerprint for run in again}


def job_name() -> str:
    """Name of this checkout's jobs: how a later driver finds them again."""
    return f"repro-{digest(str(Path.cwd().resolve()))}"


def submit(name: str, packs: list[Pack], worker: str) -> None:
    """Submit the batches as job arrays, as many as the cluster's largest array demands."""
    config = _slurm(["scontrol", "show", "config"]).stdout
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    # Where nobody says: within Slurm's default of 1001.
    size = max(1, int(found[1])) if found else 1000
    at_a_time = count_from_environment("REPRO_SLOTS", max(1, len(packs)))
    for start in range(0, len(packs), size):
        members = packs[start : start + size]
        # A folder for each array: the jobs carry its name as a comment, and the index names the
        # file.
        part = WORK / "packs" / name / str(time.time_ns())
        for index, pack in enumerate(members):
            path = part / f"{index}.json"
            write_pack(pack, path, worker, RANK_SECONDS, in_job=True)
        replace_file(part / "job.sh", SCRIPT.encode())

        command = [
            "sbatch",
            "--parsable",
            f"--job-name={name}",
            f"--comment={part.name}",
            # After %: how many of them run at a time.
            f"--array=0-{len(members) - 1}%{at_a_time}",
            # The job may come back, after preemption or its own wish, and goes on in the same log.
            "--requeue",
            "--open-mode=append",
            # B: to the batch shell alone, which has a trap for it.
            f"--signal=B:USR1@{NOTICE_SECONDS}",
            f"--output={part}/%a.log",
            *_options(members[0]),
            str(part / "job.sh"),
            sys.executable,
            str(part),
        ]
        done = _slurm(command)
        if done.returncode:
            stage = members[0].runs[0].spec.stage.upper()
            raise LaunchError(
                f"sbatch refused the jobs: {done.stderr.strip()} "
                f"(options come from REPRO_SBATCH and REPRO_SBATCH_{stage})"
            )


def _options(pack: Pack) -> list[str]:
    """Options of sbatch for jobs like this batch's; a driver is at one stage at a time."""
    nodes, stage = pack.place.nodes, pack.runs[0].spec.stage
    # One torchrun a node, which starts the node's ranks.
    options = [] if nodes == 1 else [f"--nodes={nodes}", "--ntasks-per-node=1"]
    for variable in ("REPRO_SBATCH", f"REPRO_SBATCH_{stage.upper()}"):
        options += shlex.split(os.environ.get(variable, ""))
    return options


def live_jobs(name: str) -> list[LiveJob] | None:
    """Our jobs of that name that wait or run; None if squeue cannot tell."""
    # Folder of the batch (the comment), index in the array, state, reason.
    fields = "--format=%k|%K|%T|%r"
    done = _slurm(["squeue", "--me", "--noheader", "--array", f"--name={name}", fields])
    if done.returncode:
        return None

    jobs = []
    for line in done.stdout.splitlines():
        part, index, state, reason = line.split("|", 3)
        pack = WORK / "packs" / name / part / f"{index}.json"
        # A job whose file is gone carries nothing that could be waited for.
        runs = json.loads(pack.read_bytes())["runs"] if pack.is_file() else []
        waits = f" ({reason})" if state == "PENDING" else ""
        jobs.append(LiveJob(frozenset(runs), state.lower() + waits))
    return jobs


def _slurm(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; LaunchError if it is not installed.

    Jobs outlive the processes here, so these variables stay here.
    """
    local = (PARENT, CALLER, STAGE)
    environment = {name: value for name, value in os.environ.items() if name not in local}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: no such command; REPRO_LAUNCHER=slurm needs a machine that can submit "
            "jobs to Slurm"
        ) from None
