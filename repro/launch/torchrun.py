"""torchrun around the worker: its command line, its environment, and its events and output.

`python -m repro.launch.torchrun ARGUMENTS` is torchrun that does not outlive the process that
started it. It restarts nothing by itself: it would count all failures, also those of runs that
came further, and ranks would meet stale addresses of dead ones.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from repro.events import PARENT, Event, PackFile, die_with_parent, parse, say
from repro.launch.places import rank_environment

FIRST_PORT, NUM_PORTS = 20000, 20000
"""Ports for the meeting of several nodes, by job number: below those of outgoing connections."""
NEWER_OPTIONS = ("--numa-binding", "--shutdown-timeout")
"""Options that torchrun does without where its torch does not have them yet."""
KILL_SECONDS = 5.0
"""Time for torchrun itself to end, beside that of its ranks."""
ERROR = re.compile(r"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception|Exit)\b.*)")
"""The last line of a traceback, as Python or torchrun's ranks print it."""


def command(pack: PackFile, pack_path: Path) -> list[str]:
    """Command line that runs a batch's worker: torchrun here, or by srun on each node of the job.

    Where memory is divided among the processors, ranks are bound to the cores near their GPUs. A
    single rank that need not be bound goes without torchrun, which takes seconds to start.
    """
    nodes, grace = pack["nodes"], f"{pack['grace_seconds']:.0f}"
    worker = ["-m", pack["worker"], str(pack_path)]
    memories = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    bind = bool(pack["devices"]) and len(memories) > 1 and shutil.which("numactl") is not None
    if pack["ranks"] == 1 and not bind:
        return [sys.executable, *worker]

    torchrun = [sys.executable, "-m", "repro.launch.torchrun", "--max-restarts=0"]
    torchrun += [f"--nproc-per-node={pack['ranks'] // nodes}", f"--shutdown-timeout={grace}"]
    if bind:
        torchrun.append("--numa-binding=node")
    if nodes == 1:
        return [*torchrun, "--standalone", *worker]

    # The batch script runs on the job's first node, so this is where the agents meet.
    job = os.environ["SLURM_JOB_ID"]
    meeting = f"{socket.gethostname()}:{FIRST_PORT + int(job) % NUM_PORTS}"
    torchrun += [f"--nnodes={nodes}", "--rdzv-backend=c10d"]
    torchrun += [f"--rdzv-endpoint={meeting}", f"--rdzv-id={job}"]

    # One agent a node. After the first one has ended, by an error or a stop signal, rank 0 has the
    # grace period to write its checkpoint; --kill-on-bad-exit would end it in the middle. srun
    # takes the number of cores a task from its command line.
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", f"--wait={grace}"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        step.append(f"--cpus-per-task={cpus}")
    return [*step, *torchrun, *worker]


def training_environment(pack: PackFile) -> dict[str, str]:
    """Environment of torchrun and its ranks; what the user has set for GPU or loader stays.

    The tracking server's address stays behind: it may hold a password.
    """
    environment = rank_environment(pack["threads"], gpu=bool(pack["devices"]))
    environment = {k: v for k, v in environment.items() if not k.startswith("MONGO_URL")}

    # Of several nodes, the parents are Slurm's, and it ends the step with its job.
    environment.pop(PARENT, None)
    if pack["nodes"] == 1:
        environment[PARENT] = str(os.getpid())
    return environment


class Torchrun:
    """A running torchrun: iterate over its events; ordinary lines are echoed on the way."""

    def __init__(self, pack: PackFile, path: Path) -> None:
        self.grace_seconds = pack["grace_seconds"]
        # One pipe for both outputs: one that nobody empties would block the ranks.
        self.process = subprocess.Popen(
            command(pack, path),
            env=training_environment(pack),
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
        if error := last_error(self.lines):
            return error
        # No traceback, as where the system killed a rank: torchrun prints its exit status.
        codes = re.findall(r"exitcode\s*: (-?\d+)", "\n".join(self.lines))
        return f"the worker ended with status {codes[0] if codes else self.process.returncode}"

    def stop(self) -> None:
        """End the process: politely, and after the grace period by force."""
        if self.process.poll() is not None:
            return
        # torchrun passes the signal on, and the ranks write a checkpoint first.
        self.process.terminate()
        try:
            # Not `wait`: what the ranks still print would fill the pipe and block them.
            self.process.communicate(timeout=self.grace_seconds + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def last_error(lines: Iterable[str]) -> str:
    """The exception that a process printed last, cut to 500 characters; "" if it printed none."""
    # torchrun's own account of a rank that died says nothing of the cause.
    errors = [match[1] for line in lines if (match := ERROR.match(line))]
    return next((e[:500] for e in reversed(errors) if "ChildFailedError" not in e), "")


def supported(arguments: list[str], help_text: str) -> list[str]:
    """The arguments without those of NEWER_OPTIONS that torchrun's help does not know."""
    missing = tuple(option for option in NEWER_OPTIONS if option not in help_text)
    return [argument for argument in arguments if not argument.startswith(missing)]


if __name__ == "__main__":
    # Before torch, which takes seconds to import. The ranks in turn end with this process.
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import get_args_parser, main

    main(supported(sys.argv[1:], get_args_parser().format_help()))
