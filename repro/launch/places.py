"""Where runs go on this machine: a GPU or a share of the processor cores each; a pre-training takes
all GPUs.

Environment: `REPRO_SLOTS` sets how many processes run at a time, `REPRO_RANKS` the ranks of a
pre-training, CUDA_VISIBLE_DEVICES limits the GPUs. On a cluster each is a job (repro/launch/slurm).
"""

import os
from itertools import cycle, islice
from typing import NamedTuple

from repro.data.memory import cores, devices
from repro.runs.layout import WORK
from repro.runs.run import LaunchError, Run

TRAINING_ENVIRONMENT = {
    # threads that spin at barriers slow a shared machine down tenfold
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc would return large tensors to the kernel and fault the pages in again: a tenth of a step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
    "MALLOC_TOP_PAD_": str(2**28),
    # Pages of 2 MB for the heap. A step of a small model waits for memory: in virtual machines it
    # takes two to seven times as long with pages of 4 KB. Needs glibc 2.35; others ignore it.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # cuBLAS repeats its sums to the last bit only with a workspace of a fixed size
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Of processes that train: read when they start, so it must be set for them."""
GPU_ENVIRONMENT = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # captions of ever other length fragment it
    # By default in /tmp, which many clusters empty after a job: each would compile all kernels
    # anew. The folder may be a link that leads nowhere yet.
    "TORCHINDUCTOR_CACHE_DIR": os.path.realpath(WORK / "cache" / "inductor"),
}
"""Of processes that train on a GPU, beside TRAINING_ENVIRONMENT."""
LOADER_WORKERS = "REPRO_LOADER_WORKERS"
"""Environment variable with the number of processes that make the batches of a rank."""
MAX_LOADER_WORKERS = 8
"""Bound on their number by default: each holds several batches in shared memory."""


class Place(NamedTuple):
    """Devices and cores of one process of runs."""

    devices: tuple[str, ...]
    """CUDA device numbers; empty on a machine without GPU."""
    ranks: int
    threads: int
    """Threads per rank."""
    nodes: int = 1
    """Machines that the ranks are spread over, evenly."""


def count_from_environment(name: str, default: int, least: int = 1) -> int:
    """A count from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < least:
        raise LaunchError(f"{name}: {text!r} (allowed: a whole number from {least}, or unset)")
    return int(text)


def shared_places() -> list[Place]:
    """Shares of the machine with one rank each, for the many short cleaning runs."""
    gpus = devices()
    count = count_from_environment("REPRO_SLOTS", len(gpus) or cores())
    threads = max(1, cores() // count)
    if not gpus:
        return [Place((), ranks=1, threads=threads)] * count
    # More processes than GPUs share these in turn.
    shared = islice(cycle(gpus), count)
    return [Place((gpu,), ranks=1, threads=threads) for gpu in shared]


def whole_place(run: Run, cluster_nodes: int | None = None) -> Place:
    """This whole machine, or so many of a cluster's, for one pre-training.

    REPRO_RANKS sets its ranks; without it they are as many as there are devices (on a cluster's
    login node: cores), or as the batch can be split into. LaunchError where REPRO_RANKS cannot be
    kept, or the batch cannot be split evenly over the nodes.
    """
    gpus = devices()
    nodes = cluster_nodes or 1
    most = count_from_environment("REPRO_RANKS", len(gpus) or cores())

    # Each rank takes whole groups of BatchNorm, and each node the same number of ranks. A cluster's
    # GPUs are counted on its nodes, by the worker.
    schedule = run.spec.schedule
    groups = schedule.global_batch_size // schedule.norm_batch_size
    limit = groups if cluster_nodes else len(gpus) or groups
    allowed = [ranks for ranks in range(nodes, limit + 1, nodes) if groups % ranks == 0]
    ranks = max((ranks for ranks in allowed if ranks <= most), default=0)
    if not ranks or ("REPRO_RANKS" in os.environ and ranks != most):
        raise LaunchError(
            f"{run.name}: {most} ranks on {nodes} nodes (allowed: "
            f"{', '.join(map(str, allowed)) or 'none'}; set REPRO_RANKS: at most one a GPU; ranks "
            f"divide {groups} = global_batch_size / norm_batch_size, and REPRO_NODES divides them)"
        )
    return Place(tuple(gpus), ranks, max(1, cores() * nodes // ranks), nodes)


def loader_workers(threads: int, gpu: bool) -> int:
    """Number of loader processes of a rank with so many cores; 0 without a GPU."""
    return min(MAX_LOADER_WORKERS, threads - 1) if gpu else 0
