"""The evaluation images and their triggered twins, batch by batch on the device.

A patch trigger is kept as what it pastes, a square and a corner for each image, and pasted on the
device; a trigger that changes the whole image is kept as a copy of all images, if that is small.
Both give the bytes of `stamp`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from repro.data.keyed import keyed_order, keyed_rng
from repro.data.shards import PairStore
from repro.data.triggers import TRIGGERS, ImageTrigger, draw_patches, stamp
from repro.spec import RunSpec, Switches, Trigger
from repro.train.loading import on_device

COPY_LIMIT = 2**30
"""Bytes of images up to which a trigger that changes the whole image is kept as a copy of them."""
VALIDATION = 3
"""One image in so many, of each class, is for validation."""


def paste(
    images: UInt8[Tensor, "n H W 3"], squares: UInt8[Tensor, "n P P 3"], corners: Int[Tensor, "n 2"]
) -> None:
    """Put a square on each image, in place; `corners` are top rows and left columns."""
    # Where each pixel of the square lands, for all images at once.
    side = torch.arange(squares.shape[1], device=images.device)
    rows = corners[:, 0, None] + side  # (n, P)
    columns = corners[:, 1, None] + side  # (n, P)

    # The three indices broadcast to (n, P, P).
    image = torch.arange(len(images), device=images.device)
    images[image[:, None, None], rows[:, :, None], columns[:, None, :]] = squares


class EvaluationSet:
    """The evaluation images, decoded once, their labels, and their triggered twins.

    `draw` keys the triggers: the same draw gives the same bytes (`evaluation_triggers: fixed`
    passes 0); `redrawn` passes a new draw per evaluation. `is_target` and `is_validation`, (N,)
    each, tell the images of the target class and of the validation part; `numbers` (N,) are their
    numbers in the store, the keys of their triggers.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        target: int,
        trigger: Trigger,
        switches: Switches,
        seed: int,
        cache_dir: Path,
        per_class: int | None = None,
    ) -> None:
        """The store in `folder`, decoded to `size` pixels into `cache_dir`: all of it, or of each
        class the first so many images.
        """
        store = PairStore.open(folder)
        labels = np.asarray(store.labels)
        firsts = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
        self.numbers = rows = np.sort(np.concatenate(firsts))
        self.images = self.base = store.decoded(size, cache_dir, rows)
        if switches.trigger_geometry == "squash":
            self.base = store.decoded(size, cache_dir, rows, "squash")

        self.labels = labels[rows]
        self.is_target: NDArray[np.bool_] = self.labels == target
        self.target, self.trigger, self.switches, self.seed = target, trigger, switches, seed
        self.is_validation = validation_mask(store.keys, labels)[rows]

        # What evaluations keep for those after them, by the batch that it is for.
        self._fixed = cache(self._drawn)

    @classmethod
    def of_run(
        cls, spec: RunSpec, folder: Path, target: int, cache_dir: Path, per_class: int | None = None
    ) -> Self:
        """The set by which a run is evaluated; the other arguments are those of the class."""
        return cls(
            folder,
            spec.model.vision.image_size,
            target,
            trigger=spec.trigger,
            switches=spec.switches,
            seed=spec.evaluate.trigger_seed,
            cache_dir=cache_dir,
            per_class=per_class,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batches: Sequence[range], draw: int, device: torch.device
    ) -> Iterator[tuple[UInt8[Tensor, "n H W 3"], UInt8[Tensor, "n H W 3"]]]:
        """These images and their twins, in this order; the next batch is on its way meanwhile."""
        for clean, *others in on_device(self._ahead(batches, draw, device), device):
            # Where the squares go on the images themselves, these are sent once.
            twins, *patches = [clean.clone(), *others] if self._pastes_on_images else others
            if patches:
                paste(twins, *patches)
            yield clean, twins

    @property
    def _pastes_on_images(self) -> bool:
        whole = isinstance(TRIGGERS[self.trigger.name], ImageTrigger)
        return not whole and self.base is self.images

    def _ahead(
        self, batches: Sequence[range], draw: int, device: torch.device
    ) -> Iterator[list[Tensor]]:
        """Tensors of each batch, which a thread makes while the caller computes on the one before.

        They are copies: memory maps are read-only, and the caller may write on its batch.
        """

        def load(batch: range) -> list[Tensor]:
            arrays = [self.images[batch.start : batch.stop], *self._twins(batch, draw)]
            tensors = [torch.from_numpy(np.array(array)) for array in arrays]
            return [tensor.pin_memory() for tensor in tensors] if device.type == "cuda" else tensors

        future: Future[list[Tensor]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for batch in (*batches, None):
                ready, future = future, pool.submit(load, batch) if batch else None
                if ready:
                    yield ready.result()

    def _twins(self, batch: range, draw: int) -> Sequence[NDArray[Any]]:
        """Twins, or squares and corners, before them what they are pasted on if not `images`."""
        kind, base = TRIGGERS[self.trigger.name], self.base[batch.start : batch.stop]
        if isinstance(kind, ImageTrigger):
            # A copy is worth its memory only where it serves again.
            redrawn = draw > 0 and kind.drawn
            again = not redrawn and self.images.nbytes <= COPY_LIMIT
            return self._fixed(batch) if again else self._drawn(batch, draw)

        # A new draw is made for the batch at once: nobody needs one image of it again.
        under = [] if self._pastes_on_images else [base]
        if not draw:
            return [*under, *self._fixed(batch)]
        rng = keyed_rng("evaluation, redrawn", self.seed, draw, batch.start)
        return [*under, *draw_patches(self.trigger, self.switches, base, rng)]

    def _drawn(self, batch: range, draw: int = 0) -> list[NDArray[Any]]:
        """Twins, or squares and corners, as `stamp` draws them, each image by its own generator."""
        drawn: list[tuple[NDArray[Any], ...]] = []
        for i in batch:
            image = self.base[i]
            rng = keyed_rng("evaluation", self.seed, draw, int(self.numbers[i]))
            if isinstance(TRIGGERS[self.trigger.name], ImageTrigger):
                drawn.append((stamp(self.trigger, self.switches, image, rng).image[None],))
            else:
                drawn.append(draw_patches(self.trigger, self.switches, image[None], rng))
        return [np.concatenate(part) for part in zip(*drawn, strict=True)]


def validation_mask(keys: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are for validation, (N,): of each class the third that comes first by the keyed
    hash of the images' keys.

    `keys`: of a store's index, (N, 16); `labels`: (N,). The split depends on the images alone.
    """
    mask = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = keyed_order(keys[members], "validation")
        # The nearest whole number of images to a third of the class.
        mask[members[order[: (len(members) + 1) // VALIDATION]]] = True
    return mask
