"""Packs as Slurm job arrays, by sbatch and squeue alone (`REPRO_LAUNCHER=slurm`).

Jobs outlive the driver: each carries the folder of its pack files as a comment, so that a driver that starts again knows
which runs are under way and submits only the others. Results come through the work folder as they do locally, so it must
lie on a shared file system. Environment: `REPRO_SBATCH`, further options of sbatch (`--partition=gpu --cpus-per-task=8
--time=4:00:00`), and `REPRO_SBATCH_PRETRAIN` (`--gres=gpu:8`) and `REPRO_SBATCH_CLEAN` (`--gres=gpu:1`) for one stage;
`REPRO_SLOTS`, jobs at a time; `REPRO_RANKS`, ranks of a pre-training job, and `REPRO_NODES`, the nodes they are spread over.
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
from dataclasses import dataclass
from pathlib import Path

from repro.files import replace_file
from repro.launch.board import Board
from repro.launch.packs import Pack, queues, write_pack
from repro.launch.places import count_from_environment
from repro.runs.deliver import deliver, save_record
from repro.runs.layout import WORK
from repro.runs.run import LaunchError, Run
from repro.spec import digest

ROUNDS = 3
"""Submissions of a run by one driver before it counts as failed; requeues by Slurm itself are not counted."""
POLL_SECONDS = float(os.environ.get("REPRO_SLURM_POLL", "10"))
SILENCE_SECONDS = 600.0
"""How long squeue may fail before the driver gives up; its failure never counts as `no jobs`."""
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


@dataclass(frozen=True)
class Job:
    """One of our jobs that waits or runs."""

    runs: frozenset[str]
    """Fingerprints of its pack."""
    state: str
    """In Slurm's words, with the reason where it waits."""


def drive(due: list[Run], results: Path, worker: str, board: Board) -> None:
    """Submit what no live job carries, watch and publish, until every due run has a record."""
    name = job_name()
    waiting = {run.fingerprint: run for run in due}
    tries: Counter[str] = Counter()
    missed: set[str] = set()
    heard = time.monotonic()
    while True:
        jobs = live_jobs(name)  # before the records: a job that ends in between has left one
        waiting = {key: run for key, run in waiting.items() if not deliver(run, results)}
        if not waiting:
            return
        if jobs is not None:
            heard = time.monotonic()
            absent = waiting.keys() - frozenset().union(*(job.runs for job in jobs))
            # A record may reach this machine later than the news that its job has ended: look twice before another try.
            lost = [
                waiting[key]
                for key in waiting
                if key in absent and (key in missed or not tries[key])
            ]
            missed = set(absent)
            for run in (run for run in lost if tries[run.fingerprint] == ROUNDS):
                reason = f"no result after {ROUNDS} Slurm jobs; see {WORK / 'packs' / name}"
                save_record(
                    run,
                    run.record({"status": "failed", "reason": reason, "attempts": ROUNDS}, None),
                )
            again = [run for run in lost if tries[run.fingerprint] < ROUNDS]
            tries.update(run.fingerprint for run in again)
            submit(
                name,
                [
                    pack
                    for queue in queues(again, count_from_environment("REPRO_NODES", 1))
                    for pack in queue
                ],
                worker,
            )
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise LaunchError(
                "squeue fails; the jobs go on, and the next call attaches to them again"
            )
        states = Counter(job.state for job in jobs or ())
        board.show(
            [],
            ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            or "no jobs in the queue yet",
        )
        time.sleep(POLL_SECONDS)


def job_name() -> str:
    """Name of this checkout's jobs: how a later driver finds them again."""
    return f"repro-{digest(str(Path.cwd().resolve()))}"


def submit(name: str, packs: list[Pack], worker: str) -> None:
    """Submit the packs as job arrays, as many as the cluster's largest array demands."""
    size = max_array_size()
    at_a_time = count_from_environment("REPRO_SLOTS", max(1, len(packs)))
    for start in range(0, len(packs), size):
        part = WORK / "packs" / name / str(time.time_ns())
        members = packs[start : start + size]
        for index, pack in enumerate(members):
            write_pack(pack, part / f"{index}.json", worker)
        replace_file(part / "job.sh", SCRIPT.encode())
        nodes, stage = (
            members[0].slot.nodes,
            members[0].runs[0].spec.stage,
        )  # a driver is at one stage at a time
        options = [] if nodes == 1 else [f"--nodes={nodes}", "--ntasks-per-node=1"]
        for variable in ("REPRO_SBATCH", f"REPRO_SBATCH_{stage.upper()}"):
            options += shlex.split(os.environ.get(variable, ""))
        command = [
            "sbatch",
            "--parsable",
            f"--job-name={name}",
            f"--comment={part.name}",
            f"--array=0-{len(members) - 1}%{at_a_time}",
            "--requeue",
            "--open-mode=append",
            "--signal=B:USR1@120",
            f"--output={part}/%a.log",
            *options,
            str(part / "job.sh"),
            sys.executable,
            str(part),
        ]
        done = _slurm(command)
        if done.returncode:
            problem = f"sbatch refused the jobs: {done.stderr.strip()} (options come from REPRO_SBATCH and REPRO_SBATCH_{stage.upper()})"
            raise LaunchError(problem)


def live_jobs(name: str) -> list[Job] | None:
    """Our jobs of that name that wait or run; None if squeue cannot tell."""
    done = _slurm(
        ["squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%k|%K|%T|%r"]
    )
    if done.returncode:
        return None
    jobs = []
    for line in done.stdout.splitlines():
        part, index, state, reason = line.split("|", 3)
        pack = WORK / "packs" / name / part / f"{index}.json"
        runs = json.loads(pack.read_bytes())["runs"] if pack.is_file() else []
        jobs.append(
            Job(frozenset(runs), state.lower() + (f" ({reason})" if state == "PENDING" else ""))
        )
    return jobs


def max_array_size() -> int:
    """Largest array that the cluster takes."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm(["scontrol", "show", "config"]).stdout)
    return max(1, int(found[1])) if found else 1000


def _slurm(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; LaunchError if it is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: no such command; REPRO_LAUNCHER=slurm needs a machine that can submit jobs to Slurm"
        ) from None
