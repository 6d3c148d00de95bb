"""torchrun that does not outlive the process that started it.

The process is `python -m repro.launch.torchrun ARGUMENTS`.

No restarts by torchrun itself: with those, ranks would meet stale addresses of dead ones. The pack
starts it again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path

from repro.events import PARENT, PackFile, die_with_parent
from repro.launch.places import rank_environment

FIRST_PORT, NUM_PORTS = 20000, 20000
"""Ports for the meeting of several nodes, by job number: below those of outgoing connections."""
NEWER_OPTIONS = ("--numa-binding", "--shutdown-timeout")
"""Options that torchrun does without where its torch does not have them yet."""


def command(pack: PackFile, pack_path: Path, bind: bool) -> list[str]:
    """Command line that runs a pack's worker: torchrun here, or by srun on each node of the job.

    With `bind`, ranks are bound to the cores near their GPUs.
    """
    nodes = pack["nodes"]
    torchrun = [
        sys.executable,
        "-m",
        "repro.launch.torchrun",
        f"--nproc-per-node={pack['ranks'] // nodes}",
        "--max-restarts=0",
        f"--shutdown-timeout={pack['grace_seconds']:.0f}",
    ]
    if bind:
        torchrun.append("--numa-binding=node")

    worker = ["-m", pack["worker"], str(pack_path)]
    if nodes == 1:
        return [*torchrun, "--standalone", *worker]

    # The batch script runs on the job's first node, so this is where the agents meet.
    job = os.environ["SLURM_JOB_ID"]
    meeting = [
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={socket.gethostname()}:{FIRST_PORT + int(job) % NUM_PORTS}",
        f"--rdzv-id={job}",
    ]

    # One agent a node. srun takes the number of cores a task from the command line, not from
    # sbatch.
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--kill-on-bad-exit=1"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        step.append(f"--cpus-per-task={cpus}")
    return [*step, *torchrun, *meeting, *worker]


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


def can_bind(pack: PackFile) -> bool:
    """Whether ranks can be bound to the cores near their GPUs (by numactl), to any effect."""
    # With a single memory node all cores are equally near.
    memories = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return bool(pack["devices"]) and len(memories) > 1 and shutil.which("numactl") is not None


def supported(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments without those of NEWER_OPTIONS that torchrun's parser does not know."""
    known = parser.format_help()
    missing = tuple(option for option in NEWER_OPTIONS if option not in known)
    return [argument for argument in arguments if not argument.startswith(missing)]


if __name__ == "__main__":
    # Before torch, which takes seconds to import. The ranks in turn end with this process.
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import get_args_parser, main

    main(supported(sys.argv[1:], get_args_parser()))
