"""What a run sets on its device and asks of it: arithmetic, peak of memory, copies to the host."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
"""Settings under which cuBLAS repeats its bits (NVIDIA, "Results reproducibility")."""
RESET = Path("/proc/self/clear_refs")
"""Writing 5 here sets the peak of the resident set back to what is resident (proc(5))."""


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
    on_gpu, workspace = device.type == "cuda", os.environ.get(WORKSPACE, "")
    if on_gpu and deterministic and workspace not in REPEATABLE_WORKSPACES:
        allowed = " or ".join(REPEATABLE_WORKSPACES)
        raise RuntimeError(
            f"{WORKSPACE}: {workspace!r} (allowed where `deterministic` is true: {allowed})"
        )

    # On CPUs there is nothing to refuse; on GPUs attention's backward is repeatable only if
    # warnings are errors.
    torch.use_deterministic_algorithms(deterministic, warn_only=not on_gpu)
    torch.backends.cudnn.benchmark = not deterministic


def to_host(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Copies in the host's memory, and what waits until they are there.

    On a GPU the copies are queued behind the work that is queued already, into pinned memory, and
    the host goes on. To read a tensor of the GPU itself would wait for all that is queued by then,
    the next step included.
    """
    # To the host without blocking, torch copies into pinned memory.
    copies = {
        name: tensor.to("cpu", non_blocking=True, copy=True) for name, tensor in tensors.items()
    }
    devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
    events = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> None:
        for event in events:
            event.synchronize()

    return copies, wait


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
