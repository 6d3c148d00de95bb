"""What a run sets on its device and asks of it: arithmetic, peak of memory, copies to the host."""

import contextlib
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

RESET = Path("/proc/self/clear_refs")
"""Writing 5 here sets the peak of the resident set back to what is resident (proc(5))."""


def set_arithmetic(
    precision: Literal["fp32", "tf32", "bf16"], deterministic: bool, device: torch.device
) -> None:
    """Set the flags of this process to what a run wants, whatever the run before it left.

    `deterministic` gives the same bits at every repetition on one machine; without it cuDNN and
    Inductor time their kernels and take the fastest. On a GPU whoever starts the process must set
    CUBLAS_WORKSPACE_CONFIG for it, or torch refuses the first product of matrices.
    """
    # For bf16 too: what autocast leaves in float32 goes through TF32 then.
    reduced = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = reduced
    torch.backends.cudnn.allow_tf32 = reduced

    # On CPUs there is nothing to refuse; on GPUs attention's backward is repeatable only if
    # warnings are errors.
    torch.use_deterministic_algorithms(deterministic, warn_only=device.type != "cuda")
    torch.backends.cudnn.benchmark = not deterministic
    # Memory that nothing has written is not read either, so filling it is wasted time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def to_host(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Copies in the host's memory, by a function that waits until they are there.

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

    def arrived() -> dict[str, Tensor]:
        for event in events:
            event.synchronize()
        return copies

    return arrived


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
