"""Batches in order, made ahead by loader processes and copied ahead to the device."""

import signal
from collections.abc import Generator, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repro.train.process.stopping import STOP_SIGNALS

Batch = tuple[Tensor, Tensor]
"""Images (V, b, 3, H, W) and tokens (V, b, L)."""

BATCHES_AHEAD = 4
"""Batches that each loader process makes before they are asked for."""


def load_batches(pairs: Dataset[Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    """The batches of `steps` in order, by `workers` processes, which end with the iterator."""
    # An item of the data set is a whole batch: nothing is collated, and "samples" are step numbers.
    # Pinned memory lets `on_device` copy while the GPU computes.
    loader = DataLoader(
        pairs,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=BATCHES_AHEAD if workers else None,
        worker_init_fn=_outlive_stop_signals if workers else None,
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        # Here, not when Python collects it: at an exit it would wait for processes that ignore
        # the signal by which it ends them.
        if workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # of loaders with processes


def _outlive_stop_signals(_: int) -> None:
    """Leave stop requests to the rank.

    torchrun, Slurm and a terminal signal the whole process group. A loader process that ends at
    once takes the rank down before it has written its checkpoint; one that stays is ended by it,
    or ends by itself when the rank is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def on_device(
    batches: Iterable[Sequence[Tensor]], device: torch.device, count: int | None = None
) -> Iterator[Sequence[Tensor]]:
    """The batches with their first `count` tensors (None: all) on `device`; on CUDA each is copied
    while the step before it is at work.

    Copies have a stream of their own, so that they need not wait for the steps that are queued. On
    the processor the batches are given on as they are.
    """
    if device.type != "cuda":
        yield from batches
        return

    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            here = [tensor.to(device, non_blocking=True) for tensor in batch[:count]]

        # The step may begin when the copy has ended, and its memory is free when the step has.
        work = torch.cuda.current_stream(device)
        work.wait_stream(copies)
        for tensor in here:
            tensor.record_stream(work)
        yield [*here, *batch[len(here) :]]
