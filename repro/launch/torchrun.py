"""torchrun around the worker: its command line, its environment, and its events and output.

`python -m repro.launch.torchrun ARGUMENTS` is torchrun that does not outlive the process that
started it. It restarts nothing by itself: it would count all failures, also those of runs that
came further, and ranks would meet stale addresses of dead ones.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from repro.events import PARENT, Event, JobFile, die_with_parent, end, parse, say
from repro.launch.places import (
    GPU_ENVIRONMENT,
    LOADER_WORKERS,
    TRAINING_ENVIRONMENT,
    loader_workers,
)

FIRST_PORT, NUM_PORTS = 20000, 20000
"""Ports for the meeting of several nodes, by job number: below those of outgoing connections."""
KILL_SECONDS = 5.0
"""Time for torchrun itself to end, beside that of its ranks."""
OUT_OF_MEMORY = (
    "; does another process use the GPU (nvidia-smi)? A BatchNorm group is the least that a step "
    "takes: docs/gpu.md says how much that is; REPRO_SLOTS=<number of GPUs> gives each run one"
)
"""Advice where a GPU's memory is too small."""
ERROR = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?!.*ChildFailedError)([\w.]*(?:Error|Exception|Exit)\b.*)"
)
"""The last line of a traceback, as Python or torchrun's ranks print it; torchrun's own account of a
rank that died says nothing of the cause.
"""


def command(job: JobFile, job_path: Path) -> list[str]:
    """Command line that runs a job's worker: torchrun here, or by srun on each node of Slurm's job.

    Where memory is divided among the processors, ranks are bound to the cores near their GPUs. A
    single rank that need not be bound goes without torchrun, which takes seconds to start.
    """
    nodes = job["nodes"]
    grace = f"{job['grace_seconds']:.0f}"
    worker = ["-m", job["worker"], str(job_path)]
    memories = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    bind = bool(job["devices"]) and len(memories) > 1 and shutil.which("numactl") is not None
    if job["ranks"] == 1 and not bind:
        return [sys.executable, *worker]

    torchrun = [sys.executable, "-m", "repro.launch.torchrun", "--max-restarts=0"]
    torchrun += [f"--nproc-per-node={job['ranks'] // nodes}", f"--shutdown-timeout={grace}"]
    if bind:
        torchrun.append("--numa-binding=node")
    if nodes == 1:
        return [*torchrun, "--standalone", *worker]

    # Slurm's script runs on the job's first node, so this is where the agents meet.
    number = os.environ["SLURM_JOB_ID"]
    meeting = f"{socket.gethostname()}:{FIRST_PORT + int(number) % NUM_PORTS}"
    torchrun += [f"--nnodes={nodes}", "--rdzv-backend=c10d"]
    torchrun += [f"--rdzv-endpoint={meeting}", f"--rdzv-id={number}"]

    # One agent a node. After the first one has ended, by an error or a stop signal, rank 0 has the
    # grace period to write its checkpoint; a site's KillOnBadExit would end it in the middle. srun
    # takes the number of cores a task from its command line.
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}"]
    step += [f"--wait={grace}", "--kill-on-bad-exit=0"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        step.append(f"--cpus-per-task={cpus}")
    return [*step, *torchrun, *worker]


def training_environment(job: JobFile) -> dict[str, str]:
    """Environment of torchrun and its ranks; what the user has set for GPU or loader stays.

    The tracking server's address stays behind: it may hold a password.
    """
    threads = job["threads"]
    gpu = bool(job["devices"])
    defaults = {LOADER_WORKERS: str(loader_workers(threads, gpu))}
    if gpu:
        # By default each rank would have up to 32 processes compile kernels.
        defaults |= GPU_ENVIRONMENT | {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    # Results and speed depend on TRAINING_ENVIRONMENT, so that it wins over the user's.
    environment = defaults | os.environ | TRAINING_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}

    # Of several nodes, the parents are Slurm's, and it ends the step with its job.
    parent = {PARENT: str(os.getpid())} if job["nodes"] == 1 else {}
    private = ("MONGO_URL", PARENT)
    return {k: v for k, v in environment.items() if not k.startswith(private)} | parent


class Torchrun:
    """A running torchrun: iterate over its events; ordinary lines are echoed on the way."""

    def __init__(self, job: JobFile, path: Path) -> None:
        self.grace_seconds = job["grace_seconds"]
        self.nodes = job["nodes"]
        # One pipe for both outputs: one that nobody empties would block the ranks.
        self.process = subprocess.Popen(
            command(job, path),
            env=training_environment(job),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # The last lines are enough for `reason`; a run of days may print many.
        self.lines: deque[str] = deque(maxlen=200)
        self.events = self._events()

    def _events(self) -> Iterator[Event]:
        # Rank 0's events are for the caller; all other output is for the log.
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            if event := parse(line):
                yield event
            elif line:
                self.lines.append(line)
                say(line)
        self.process.wait()

    def reason(self) -> str:
        """Why the worker ended: the exception it printed last, or how its process ended."""
        if causes := [match[1] for line in self.lines if (match := ERROR.match(line))]:
            advice = OUT_OF_MEMORY if "OutOfMemoryError" in causes[-1] else ""
            return causes[-1][:500] + advice
        # No traceback, as where the system killed a rank: torchrun prints its exit status.
        codes = re.findall(r"exitcode\s*: (-?\d+)", "\n".join(self.lines))
        status = int(codes[0] if codes else self.process.returncode)
        killed = " (killed, as by a system that is out of memory)" if status == -SIGKILL else ""
        return f"the worker ended with status {status}{killed}"

    def stop(self) -> None:
        """End the process: torchrun passes the signal on, and ranks write a checkpoint first."""
        seconds = self.grace_seconds + KILL_SECONDS
        if self.nodes > 1 and self.process.poll() is None:
            # srun answers SIGTERM with SIGKILL to all ranks, so Slurm has to signal them.
            step = ["scancel", "--signal=TERM", os.environ["SLURM_JOB_ID"]]
            subprocess.run(step, check=False)
            with suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=seconds)
            seconds = 0
        end([self.process], seconds)


if __name__ == "__main__":
    # Before torch, which takes seconds to import. The ranks in turn end with this process.
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main

    main()
