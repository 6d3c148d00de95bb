"""Where evaluation images wait: chosen by what is free, the same pixels from everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.evaluate.residence import Home, Residence, home_for, in_flight

GB = 10**9
CPU = torch.device("cpu")
IMAGES = 7.5 * GB
"""50,000 images of 224 pixels."""


@pytest.mark.parametrize(
    ("device_free", "host_free", "home"),
    [
        (80 * GB, 500 * GB, "device"),  # an A100 or H100 of 80 GB, before training
        (42 * GB, 500 * GB, "pinned"),  # one of 40 GB, which training fills
        (42 * GB, 31 * GB, "pinned"),  # a quarter of the host is enough
        (42 * GB, 29 * GB, "map"),  # it is not
        (42 * GB, 0, "map"),  # a host that says nothing
    ],
)
def test_images_wait_where_training_leaves_room(
    device_free: int, host_free: int, home: Home
) -> None:
    assert home_for(int(IMAGES), device_free, host_free) == home


def test_kept_batches_are_those_of_the_map_and_no_others() -> None:
    """The path of the device, tried on a CPU: batches 1 and 3 of four, as rank 1 of 2 has them."""
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    mine = [range(3, 6), range(9, 10)]

    kept = Residence(images, mine, CPU, "device")
    mapped = Residence(images, mine, CPU)

    assert mapped.home == "map", "a CPU has nothing faster"
    for batch in mine:
        expected = images[batch.start : batch.stop]
        assert (kept.load(batch).numpy() == expected).all()
        assert (mapped.load(batch).numpy() == expected).all()
    with pytest.raises(KeyError):
        kept.load(range(3))


def test_batches_arrive_in_order_and_are_loaded_when_their_turn_comes() -> None:
    loaded: list[range] = []

    def load(batch: range) -> list[torch.Tensor]:
        loaded.append(batch)
        return [torch.tensor(list(batch))]

    arriving = in_flight(load, [range(2), range(2, 3)], CPU)
    assert next(arriving)[0].tolist() == [0, 1] and loaded == [range(2)]
    assert next(arriving)[0].tolist() == [2]
    assert list(arriving) == []
