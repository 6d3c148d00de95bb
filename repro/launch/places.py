"""Where runs go on this machine: slots, ranks, and runs grouped into packs.

A slot is a GPU, or a share of the processor cores. Runs of a slot that read the same data go into one pack: one process
that starts once, loads the data once, and evaluates each start model once. Environment: `REPRO_SLOTS` and
`REPRO_RANKS` set the counts, CUDA_VISIBLE_DEVICES limits the GPUs. On a cluster a slot is a job, see `repro.launch.slurm`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from repro.runs.run import LaunchError, Run

TRAINING_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin at barriers slow a shared machine down tenfold
    # glibc would return every large tensor to the kernel and fault its pages in again, a tenth of a step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
    "MALLOC_TOP_PAD_": str(2**28),
    # cuBLAS repeats its sums to the last bit only with a workspace of a fixed size
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Of processes that train: read when they start, so it must be set for them."""


@dataclass(frozen=True)
class Slot:
    """A place for one pack at a time."""

    devices: tuple[str, ...]
    """CUDA device numbers; empty on a machine without GPU."""
    ranks: int
    threads: int
    """Threads per rank."""
    nodes: int = 1
    """Machines that the ranks are spread over, evenly."""


def devices() -> list[str]:
    """Visible CUDA devices, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_from_environment(name: str, default: int) -> int:
    """A positive count from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise LaunchError(f"{name}: {text!r} (allowed: a positive whole number, or unset)")
    return int(text)


def single_slots() -> list[Slot]:
    """One-rank slots that share the machine: for the many short cleaning runs."""
    found = devices()
    count = count_from_environment("REPRO_SLOTS", len(found) or cores())
    threads = max(1, cores() // count)
    return [
        Slot((found[index % len(found)],) if found else (), 1, threads) for index in range(count)
    ]


def whole_slot(run: Run, nodes: int = 1) -> Slot:
    """The whole machine, or `nodes` of them, for one pre-training, with as many ranks as its batch can be split into.

    LaunchError where the batch cannot be split evenly over the nodes.
    """
    found = devices()
    schedule = run.spec.schedule
    wanted = count_from_environment("REPRO_RANKS", len(found) or cores())
    groups = schedule.global_batch_size // schedule.norm_batch_size
    fitting = [
        ranks for ranks in range(nodes, min(groups, wanted) + 1, nodes) if groups % ranks == 0
    ]
    if not fitting:
        raise LaunchError(
            f"{run.name}: {wanted} ranks on {nodes} nodes (allowed: REPRO_RANKS at least, and REPRO_NODES a divisor of, "
            f"{groups} = global_batch_size / norm_batch_size)"
        )
    return Slot(tuple(found), fitting[-1], max(1, cores() * nodes // fitting[-1]), nodes)
