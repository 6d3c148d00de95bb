"""The cores, the GPUs and the memory that a run may count on. The memory is that of the machine, of
its control group, and at most REPRO_MEMORY_BYTES.

A small REPRO_MEMORY_BYTES makes a run of toy size take the ways of a large one: images are decoded
at every step, and the BatchNorm groups of a rank are taken one after another.
"""

import os
from collections.abc import Sequence
from pathlib import Path

LIMIT = "REPRO_MEMORY_BYTES"
"""Environment variable with the most memory, in bytes, of the machine and of each of its GPUs."""
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Processor cores this process may use."""
    # Fewer than the machine's where Slurm or taskset binds the process; macOS cannot tell.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices() -> list[str]:
    """Visible CUDA devices, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # Device files of GPUs have a number, nvidiactl and nvidia-uvm have none.
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]

    # To CUDA, an empty list or -1 hides all devices.
    listed = [device.strip() for device in visible.split(",")]
    return [device for device in listed if device not in ("", "-1")]


def gpus_usable(promised: Sequence[str]) -> bool:
    """Whether torch can use GPUs; RuntimeError where it cannot and some are promised."""
    # Not at the top: most callers of this module do without it.
    import torch

    usable = torch.cuda.is_available()
    if promised and not usable:
        raise RuntimeError(
            f"GPUs {', '.join(promised)} are there, but torch {torch.__version__} (for CUDA "
            f"{torch.version.cuda}) cannot use them: install the build of torch that fits the "
            "driver (nvidia-smi names its CUDA), or set CUDA_VISIBLE_DEVICES= to use the processor"
        )
    return usable


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the smallest control group of this process.

    Slurm's `--mem` is a limit of the job's group, some levels above the process.
    """
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for _, controllers, name in (line.split(":", 2) for line in lines):
        # The first form is version 2 of control groups, the second version 1.
        if not controllers:
            root = GROUPS
            file = "memory.max"
        elif controllers == "memory":
            root = GROUPS / "memory"
            file = "memory.limit_in_bytes"
        else:
            continue
        folder = root / name.strip("/")
        for path in (folder / file, *(parent / file for parent in folder.parents)):
            # The root group has no limit, and above it there is none.
            limit = path.read_text(encoding="ascii").strip() if path.exists() else "max"
            if limit != "max":
                size = min(size, int(limit))
    return at_most_limit(size)


def at_most_limit(size: int) -> int:
    """`size` bytes, or what the environment allows of it; ValueError if that is no number."""
    text = os.environ.get(LIMIT)
    if text is None:
        return size
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{LIMIT}: {text!r} (allowed: a positive whole number of bytes, or unset)")
    return min(size, int(text))
