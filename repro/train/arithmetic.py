"""How a run's arithmetic is done: TF32 or not, repeatable or fast. Set once, before the run's first
evaluation.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
"""Settings of WORKSPACE under which cuBLAS gives the same bits every time (NVIDIA, "Results
reproducibility").
"""


def set_arithmetic(
    precision: Literal["fp32", "tf32", "bf16"], deterministic: bool, device: torch.device
) -> None:
    """Set the flags of this process to what a run wants, whatever the run before it left.

    `deterministic` gives the same bits at every repetition on one machine; without it cuDNN and
    Inductor time their kernels and take the fastest. RuntimeError if that is asked of a GPU whose
    cuBLAS was not told so in time.
    """
    reduced = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = reduced
    torch.backends.cudnn.allow_tf32 = reduced

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
