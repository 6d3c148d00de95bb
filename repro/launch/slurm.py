"""Packs as Slurm job arrays, by sbatch and squeue alone (`REPRO_LAUNCHER=slurm`).

Jobs outlive the driver: a driver that starts again waits for live jobs of the same name before it submits what is
still missing. Results come through the work folder as they do locally, so it must lie on a shared file system.
Environment: `REPRO_SBATCH`, further options of sbatch (`--partition=gpu --gres=gpu:1 --cpus-per-task=8 --time=4:00:00`);
`REPRO_SLOTS`, jobs at a time; `REPRO_RANKS`, ranks of a pre-training job.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from repro.launch.driver import write_pack
from repro.launch.identity import WORK, LaunchError, Run
from repro.launch.progress import Board
from repro.launch.publication import publish, save_record
from repro.launch.slots import Pack, count_from_environment, queues
from repro.spec import digest

ROUNDS = 3
"""Submissions of a run before it counts as failed; requeues by Slurm itself are not counted."""
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


def drive(due: list[Run], results: Path, worker: str, board: Board) -> None:
    """Submit, watch and publish until every due run has a record."""
    name = job_name(due)
    missing = due
    for number in range(ROUNDS + 1):
        _wait(name, missing, results, board)
        missing = [run for run in missing if run.finished() is None]
        if not missing or number == ROUNDS:
            break
        submit(name, [pack for queue in queues(missing) for pack in queue], worker)
    for run in missing:
        reason = f"no result after {ROUNDS} Slurm jobs; see {WORK / 'packs' / name}"
        save_record(run, run.record({"status": "failed", "reason": reason, "attempts": ROUNDS}, None))
        publish(run, results)


def job_name(runs: list[Run]) -> str:
    """Name of the jobs of these cells in this checkout: how a later driver finds them again."""
    cells = sorted({f"{run.spec.profile}/{run.spec.stage}/{run.spec.cell}" for run in runs})
    return f"repro-{digest([str(Path.cwd().resolve()), *cells])}"


def submit(name: str, packs: list[Pack], worker: str) -> None:
    """Submit the packs as job arrays, as many as the cluster's largest array demands."""
    folder = WORK / "packs" / name
    size = max_array_size()
    at_a_time = count_from_environment("REPRO_SLOTS", len(packs))
    for start in range(0, len(packs), size):
        part = folder / str(time.time_ns())
        for index, pack in enumerate(packs[start : start + size]):
            write_pack(pack, part / f"{index}.json", worker)
        (part / "job.sh").write_text(SCRIPT)
        last = len(packs[start : start + size]) - 1
        command = ["sbatch", "--parsable", f"--job-name={name}", f"--array=0-{last}%{at_a_time}", "--requeue", "--open-mode=append",
                   "--signal=B:USR1@120", f"--output={part}/%a.log", *shlex.split(os.environ.get("REPRO_SBATCH", "")),
                   str(part / "job.sh"), sys.executable, str(part)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LaunchError(f"sbatch refused the jobs: {done.stderr.strip()} (options come from REPRO_SBATCH)")


def live_jobs(name: str) -> int | None:
    """Number of our jobs of that name that wait or run; None if squeue cannot tell."""
    command = ["squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return len(done.stdout.split()) if done.returncode == 0 else None


def max_array_size() -> int:
    """Largest array that the cluster takes."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(1, int(found[1]) - 1) if found else 1000


def _wait(name: str, runs: list[Run], results: Path, board: Board) -> None:
    """Publish what ends until no job of that name is left."""
    heard = time.monotonic()
    published: set[str] = set()
    while True:
        count = live_jobs(name)
        for run in runs:
            if run.fingerprint not in published and publish(run, results):
                published.add(run.fingerprint)
        if count == 0:
            return
        if count is not None:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise LaunchError("squeue fails; the jobs go on, and the next call attaches to them again")
        board.show([])
        time.sleep(POLL_SECONDS)
