"""torchrun that does not outlive the process that started it: `python -m repro.launch.torchrun ARGUMENTS`.

No restarts by torchrun itself: with those, ranks would meet stale addresses of dead ones. The pack starts it again.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from repro.events import PARENT, die_with_parent

FIRST_PORT, NUM_PORTS = 20000, 20000
"""Ports for the meeting of several nodes, by job number: below those that Linux gives to outgoing connections."""


def command(pack: dict[str, Any], pack_path: Path) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run a pack's worker: torchrun here, or through srun on each node of the Slurm job."""
    torchrun = [
        sys.executable,
        "-m",
        "repro.launch.torchrun",
        f"--nproc-per-node={pack['ranks'] // pack['nodes']}",
        "--max-restarts=0",
    ]
    worker = ["-m", pack["worker"], str(pack_path)]
    if pack["nodes"] == 1:
        return [*torchrun, "--standalone", *worker], os.environ | {PARENT: str(os.getpid())}
    job = os.environ["SLURM_JOB_ID"]
    # The batch script runs on the job's first node, so this is where the agents meet.
    meeting = [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={socket.gethostname()}:{FIRST_PORT + int(job) % NUM_PORTS}",
        f"--rdzv-id={job}",
    ]
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    step = [
        "srun",
        f"--nodes={pack['nodes']}",
        f"--ntasks={pack['nodes']}",
        "--kill-on-bad-exit=1",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
    ]
    # The parents are Slurm's, and it ends the step with its job.
    environment = {name: value for name, value in os.environ.items() if name != PARENT}
    return [*step, *torchrun, f"--nnodes={pack['nodes']}", *meeting, *worker], environment


if __name__ == "__main__":
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main

    main()
