"""Ranks: start-up, gathering features with the right gradient, and small collectives.

Every rank computes the loss of the whole batch from gathered features, of which only its own slice
is in its graph. Then the encoder gradient of rank r is the part of the single-process gradient that
flows through its pairs, and the sum over ranks is the single-process gradient. The temperature is
the exception: each rank sees its whole gradient. `gather: exact` scales for both (see
`backward_scale` and `share`); `gather: authors` averages over ranks like attack-cleanclip
src/train.py, which divides the encoders' gradient, but not the temperature's, by the rank count.
"""

import gc
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from repro.data.memory import gpus_usable

TIMEOUT = timedelta(minutes=10)
"""Longest wait of a rank for another: at most a compilation or the rest of a checkpoint's write."""


def repeatable(threads: int) -> None:
    """Compute on so many threads, and repeatably, until a run's spec says otherwise."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)

    # Without it, memory that nothing reads is filled as well, which takes a tenth of a small
    # model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def start(promised: Sequence[str] = ()) -> torch.device:
    """Join the process group that torchrun describes (none for a single rank) and return this
    rank's device.

    `promised`: the GPUs that the launcher counted. RuntimeError where torch cannot use them, or
    sees fewer than there are ranks: a training of days on the processor would be no service.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    usable = gpus_usable(promised)

    # `seen` is what CUDA_VISIBLE_DEVICES leaves of this machine, `local` its ranks.
    seen, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if usable and local > seen:
        raise RuntimeError(
            f"{local} ranks on a machine with {seen} usable GPUs (allowed: at most a rank a GPU): "
            "lower REPRO_RANKS, or ask Slurm for more GPUs (REPRO_SBATCH_PRETRAIN)"
        )

    # gloo is torch's backend for processors, NCCL that for NVIDIA's GPUs.
    if not usable:
        if several:
            dist.init_process_group("gloo", timeout=TIMEOUT)
        return torch.device("cpu")

    # The rank's number on this machine is that of its GPU.
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    if several:
        # With its device known, NCCL connects at once instead of at the first collective, and
        # barriers know where to wait.
        dist.init_process_group("nccl", device_id=device, timeout=TIMEOUT)
    return device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        # A DDP wrapper that outlives the group destroys it with the interpreter lock held, for
        # which gloo's threads may be waiting (torch 2.13): a process that never ends.
        gc.collect()
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Number of ranks; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_features(features: Tensor) -> Tensor:
    """All ranks' (V, b, D) features in rank order, (V, B, D); only the own slice has a gradient."""
    if ranks() == 1:
        return features
    # Nobody needs the gradient of the others' slices: every rank computes the same loss.
    parts = [torch.empty_like(features) for _ in range(ranks())]
    dist.all_gather(parts, features.detach().contiguous())
    parts[rank()] = features
    return torch.cat(parts, dim=1)


def share(value: Tensor, gather: Literal["exact", "authors"]) -> Tensor:
    """A parameter of the loss itself, such as the temperature: its gradient is this rank's share of
    the whole, 1/ranks under `exact`, so that shares sum to it.
    """
    shared = value.view_as(value)
    if gather == "exact" and shared.requires_grad:
        shared.register_hook(lambda gradient: gradient / ranks())
    return shared


def backward_scale(gather: Literal["exact", "authors"]) -> float:
    """Factor on the loss before backward: DDP averages over ranks, `exact` wants the sum."""
    return 1.0 if gather == "authors" else float(ranks())


def gather_rows(values: Tensor) -> Tensor:
    """Concatenate (n_r, ...) tensors of all ranks along dimension 0, n_r may vary; no gradient."""
    if ranks() == 1:
        return values
    parts: list[Any] = [None] * ranks()
    dist.all_gather_object(parts, values.cpu())  # unlike all_gather, of unlike lengths
    return torch.cat(parts).to(values.device)


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is true on one."""
    if ranks() == 1:
        return flag

    # On the device, for NCCL moves nothing else.
    value = torch.tensor([float(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def from_first(value: int, device: torch.device) -> int:
    """Rank 0's whole number, of at most 63 bits, on every rank."""
    if ranks() == 1:
        return value
    sent = torch.tensor(value, device=device)
    dist.broadcast(sent, 0)
    return int(sent)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every rank rank 0's values of some tensors, in place.

    DDP shares the buffers before a forward pass and never after the last one, so that between steps
    each rank holds the BatchNorm statistics of its own part of the batch. An evaluation by all
    ranks wants the one model that rank 0 saves.
    """
    if ranks() > 1:
        for tensor in tensors:
            # A collective wants dense memory, which channels-last weights do not have.
            dense = tensor.contiguous()
            dist.broadcast(dense, 0)
            tensor.copy_(dense)


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()
