"""Loader processes: they outlive stop signals, and end with their batches."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from repro.train.loading import load_batches, on_device

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than cores
LOADERS = 4


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch `step` is its own number, and the process that made it."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([step]), torch.tensor([os.getpid()])


def test_a_group_that_is_asked_to_stop_keeps_its_loader_processes() -> None:
    """Each stop signal to every loader process: all batches come, in order, from the same ones."""
    batches = load_batches(Numbers(), range(40), LOADERS)
    first = [next(batches) for _ in range(LOADERS)]
    makers = {int(process) for _, process in first}
    assert len(makers) == LOADERS and os.getpid() not in makers
    for process in makers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process, number)

    rest = list(batches)
    assert [int(step) for step, _ in (*first, *rest)] == list(range(40))
    assert {int(process) for _, process in rest} == makers


def test_loader_processes_end_when_their_batches_are_not_wanted_any_more() -> None:
    batches = load_batches(Numbers(), range(1000), LOADERS)
    makers = {int(next(batches)[1]) for _ in range(LOADERS)}
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 5
    assert not any(Path(f"/proc/{process}").exists() for process in makers)


def test_on_the_processor_batches_are_given_on_as_they_are() -> None:
    batches = [(torch.zeros(1), torch.ones(1)) for _ in range(3)]
    for given, batch in zip(on_device(batches, torch.device("cpu")), batches, strict=True):
        assert given[0] is batch[0] and given[1] is batch[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_batches_arrive_whole_and_in_order() -> None:
    device = torch.device("cuda")
    squares = [torch.full((1000, 1000), float(i)).pin_memory() for i in range(20)]
    batches = [(square, torch.tensor([i])) for i, square in enumerate(squares)]
    for i, (images, tokens) in enumerate(on_device(batches, device)):
        assert images.device.type == "cuda"
        assert float((images @ torch.eye(1000, device=device)).mean()) == i == int(tokens)
