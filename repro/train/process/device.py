"""What a run sets on its device and asks of it: arithmetic, peak of memory, losses."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

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


class LateValues:
    """Scalars of a step, to be read when the device has the next step to do.

    Reading a tensor of a GPU waits for all that is queued on its stream, the next step included.
    So the scalars are copied to the host behind their own step, and only that copy is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.names: list[str] = []
        self.values: Tensor | list[float] = []
        self.buffers: dict[int, Tensor] = {}
        self.arrived: torch.cuda.Event | None = None

    def put(self, values: Mapping[str, Tensor | float]) -> None:
        """Take the scalars of a step in the place of those before, which must have been read."""
        self.names, self.arrived = list(values), None
        scalars = [value for value in values.values() if isinstance(value, Tensor)]
        if not self.on_gpu or not scalars:
            self.values = list(values.values())  # type: ignore[arg-type]  # floats, when read
            return

        if len(scalars) not in self.buffers:
            self.buffers[len(scalars)] = _pinned(len(scalars))
        self.values = self.buffers[len(scalars)]
        self.values.copy_(torch.stack(scalars), non_blocking=True)
        self.arrived = _mark()

    def read(self) -> dict[str, float]:
        """The scalars by name; empty where nothing was put."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return dict(zip(self.names, map(float, self.values), strict=True))


def _pinned(count: int) -> Tensor:
    """Memory of the host that a GPU copies to without the host's help."""
    return torch.empty(count, pin_memory=True)


def _mark() -> torch.cuda.Event:
    """An event behind all that is queued on the current stream."""
    event: torch.cuda.Event = torch.cuda.current_stream().record_event()
    return event


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
