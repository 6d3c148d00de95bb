"""Where the images of an evaluation wait between evaluations, and how they get to the device.

At full size they are 7.5 GB and wanted some sixty times in a run. They wait in the device's memory
where a training leaves room, else in pinned memory of the host, from which a copy overlaps with
computing, else in the memory map of the store's cache. On a CPU the map is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.data.memory import free_memory

Home = Literal["device", "pinned", "map"]

TRAINING_BYTES = 42 * 10**9
"""Device memory left to training: 256 pairs of RN50 in float32 with all that comes beside them."""

HOST_SHARE = 0.25
"""Share of the host's free memory that one process takes, for as many as there are GPUs do so."""


def home_for(size: int, device_free: int, host_free: int) -> Home:
    """Where `size` bytes of images wait, given what is free on a GPU and on its host, in bytes."""
    if size + TRAINING_BYTES <= device_free:
        return "device"
    if size <= HOST_SHARE * host_free:
        return "pinned"
    return "map"


class Residence:
    """Batches of uint8 images (N, H, W, 3) where `device` reaches them fastest.

    `home` says where; without it, it is chosen by what is free now.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        batches: Sequence[range],
        device: torch.device,
        home: Home | None = None,
    ) -> None:
        self.images, self.home = images, home or _home_of(images, batches, device)
        if self.home == "map":
            return

        # Only the batches of this rank, one after another.
        count = sum(map(len, batches))
        shape = (count, *images.shape[1:])
        if self.home == "device":
            self._kept = torch.empty(shape, dtype=torch.uint8, device=device)
        else:
            self._kept = torch.empty(shape, dtype=torch.uint8, pin_memory=True)

        # Filled once; `load` then hands out views.
        self._places: dict[range, slice] = {}
        begin = 0
        for batch in batches:
            place = slice(begin, begin + len(batch))
            self._kept[place].copy_(self._from_map(batch))
            self._places[batch] = place
            begin += len(batch)

    def load(self, batch: range) -> Tensor:
        """Pixels (n, H, W, 3) of one of the batches; a view of what is kept, or a copy of the
        map.
        """
        if self.home == "map":
            return self._from_map(batch)
        return self._kept[self._places[batch]]

    def _from_map(self, batch: range) -> Tensor:
        # A copy, for memory maps are read-only.
        return torch.from_numpy(np.array(self.images[batch.start : batch.stop]))


def _home_of(images: NDArray[np.uint8], batches: Sequence[range], device: torch.device) -> Home:
    if device.type != "cuda":
        return "map"
    size = images[:1].nbytes * sum(map(len, batches))
    device_free, _ = torch.cuda.mem_get_info(device)
    return home_for(size, device_free, free_memory())


def in_flight(
    load: Callable[[range], list[Tensor]], batches: Sequence[range], device: torch.device
) -> Iterator[list[Tensor]]:
    """What `load` gives for each batch, on the device and the caller's own to write on.

    On a GPU the next batch is loaded and copied, by a thread and a stream of its own, while the
    caller computes on this one. On a CPU `load` is called when its turn comes, and must give
    copies.
    """
    if device.type != "cuda":
        yield from map(load, batches)
        return

    # A thread loads, a stream copies: neither waits for the caller's computing.
    copying = torch.cuda.Stream(device)

    def send(batch: range) -> tuple[list[Tensor], torch.cuda.Event]:
        with torch.cuda.stream(copying):
            return [_moved(tensor, device) for tensor in load(batch)], copying.record_event()

    computing = torch.cuda.current_stream(device)
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(send, batch) for batch in batches[:1]]
        for number in range(len(batches)):
            sent, arrived = pending.pop().result()
            # The next one sets out before the caller begins with this one.
            if number + 1 < len(batches):
                pending.append(pool.submit(send, batches[number + 1]))

            computing.wait_event(arrived)
            for tensor in sent:
                tensor.record_stream(computing)  # its memory is not given away before
            yield sent


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, made on the current stream without waiting for it."""
    if tensor.device == device:
        return tensor.clone()
    return tensor.pin_memory().to(device, non_blocking=True)
