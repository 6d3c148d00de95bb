"""What a run sets on its device and asks of it: TF32 or not, repeatable or fast; its peak of
memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import Literal

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
"""Settings of WORKSPACE under which cuBLAS gives the same bits every time (NVIDIA, "Results
reproducibility").
"""
RESET = Path("/proc/self/clear_refs")
"""Writing 5 here sets the kernel's peak of the resident set back to what is resident now (Linux,
proc(5)).
"""


def set_arithmetic(
    precision: Literal["fp32", "tf32", "bf16"], deterministic: bool, device: torch.device
) -> None:
    """Set the flags of this process to what a run wants, whatever the run before it left.

    `deterministic` gives the same bits at every repetition on one machine; without it cuDNN and
    Inductor time their kernels and take the fastest. RuntimeError if that is asked of a GPU whose
    cuBLAS was not told so in time.
    """
    # For bf16 too: what autocast leaves in float32 goes through TF32 then.
    reduced = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = reduced
    torch.backends.cudnn.allow_tf32 = reduced

    # Whoever starts the process sets the variable, for cuBLAS wants it before its own start.
    on_gpu = device.type == "cuda"
    workspace = os.environ.get(WORKSPACE, "")
    if on_gpu and deterministic and workspace not in REPEATABLE_WORKSPACES:
        allowed = " or ".join(REPEATABLE_WORKSPACES)
        raise RuntimeError(
            f"{WORKSPACE}: {workspace!r} (allowed where `deterministic` is true: {allowed})"
        )

    # On CPUs there is nothing to refuse; on GPUs attention's backward is repeatable only if
    # warnings are errors.
    torch.use_deterministic_algorithms(deterministic, warn_only=not on_gpu)
    torch.backends.cudnn.benchmark = not deterministic


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

    # Linux counts it in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
