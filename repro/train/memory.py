"""Peak memory of one run in a process that runs several."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

RESET = Path("/proc/self/clear_refs")
"""Writing 5 here sets the kernel's peak of the resident set back to what is resident now (Linux,
proc(5)).
"""


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Where the kernel does not let us, the peak is that of the process.
    with contextlib.suppress(OSError):
        RESET.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Peak since the reset: device memory on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
