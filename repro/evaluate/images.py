"""The evaluation images and their triggered twins, batch by batch on the device.

A patch trigger is kept as what it pastes, a square and a corner for each image, and pasted on the
device; a trigger that changes the whole image is kept as a copy of all images, if that is small.
Both give the bytes of `stamp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.triggers import (
    TRIGGERS,
    ImageTrigger,
    Patches,
    PatchTrigger,
    draw_patches,
    patch_centres,
    stamp,
)
from repro.evaluate.residence import Home, Residence, in_flight
from repro.evaluate.split import validation_mask
from repro.spec import Switches, Trigger

COPY_LIMIT = 2**30
"""Bytes of images up to which a trigger that changes the whole image is kept as a copy of them."""


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


@dataclass(frozen=True)
class Batch:
    """Some evaluation images on the device, (n, H, W, 3) uint8."""

    indices: range
    clean: Tensor
    base: Tensor
    """What the trigger goes on: `clean` itself, the squashed images, or twins that have it
    already.
    """
    patches: tuple[Tensor, Tensor] | None
    """Squares and corners to paste; None where `base` has the trigger already."""

    def triggered(self) -> Tensor:
        """The triggered twins. Stamped in place: afterwards `clean` may be gone."""
        if self.patches is not None:
            paste(self.base, *self.patches)
        return self.base


class EvaluationSet:
    """The evaluation images, decoded once, their labels, and their triggered twins.

    `draw` keys the triggers: the same draw gives the same bytes (`evaluation_triggers: fixed`
    passes 0); `redrawn` passes a new draw per evaluation. Clean and triggered images share a
    decode.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        squashed: NDArray[np.uint8],
        labels: NDArray[np.int64],
        target: int,
        trigger: Trigger,
        switches: Switches,
        seed: int,
    ) -> None:
        """Images (N, H, W, 3), what the trigger goes on (the same array, or another), labels
        (N,).
        """
        self.images, self.squashed, self.labels = images, squashed, labels
        self.target, self.trigger, self.switches, self.seed = target, trigger, switches, seed
        self.kind: PatchTrigger | ImageTrigger = TRIGGERS[trigger.name]
        self.is_validation = np.zeros(len(labels), dtype=bool)
        """(N,) images of the validation part (`repro.evaluate.split`)."""

        # What evaluations keep for those after them; the triggers by the batch that they are for.
        self._copy: NDArray[np.uint8] | None = None
        self._fixed: dict[range, Patches] = {}
        self._centres: dict[range, NDArray[np.float64]] = {}
        self._residences: dict[str, tuple[object, Residence]] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        size: int,
        target: int,
        trigger: Trigger,
        switches: Switches,
        seed: int,
        cache: Path,
    ) -> EvaluationSet:
        """The store in `folder`, decoded to `size` pixels into `cache`."""
        store = PairStore.open(folder)
        images = store.decoded(size, cache)
        squash = switches.trigger_geometry == "squash"
        squashed = store.decoded(size, cache, geometry="squash") if squash else images
        labels = np.asarray(store.labels)
        evaluation = cls(images, squashed, labels, target, trigger, switches, seed)
        evaluation.is_validation = validation_mask([key.tobytes() for key in store.keys], labels)
        return evaluation

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_target(self) -> NDArray[np.bool_]:
        """(N,) images whose label is the target class."""
        matches: NDArray[np.bool_] = self.labels == self.target
        return matches

    @property
    def homes(self) -> dict[str, Home]:
        """Where the images of the last evaluation wait, by what they are: `clean`, `squashed`."""
        return {name: residence.home for name, (_, residence) in self._residences.items()}

    def batches(self, batches: Sequence[range], draw: int, device: torch.device) -> Iterator[Batch]:
        """These images and their twins, in this order; the next batch is on its way meanwhile."""
        # One array serves for both where the trigger goes on the clean image itself.
        patched = isinstance(self.kind, PatchTrigger)
        clean = self._residence("clean", self.images, batches, device)
        squashed = None
        if patched and self.squashed is not self.images:
            squashed = self._residence("squashed", self.squashed, batches, device)

        def load(batch: range) -> list[Tensor]:
            # A trigger that changes the whole image is put on here, a patch on the device.
            tensors = [clean.load(batch)]
            if not patched:
                return [*tensors, torch.from_numpy(self._stamped(batch, draw))]

            if squashed is not None:
                tensors.append(squashed.load(batch))
            patches = self._patches(batch, draw)
            return [*tensors, torch.from_numpy(patches.pixels), torch.from_numpy(patches.corners)]

        for indices, tensors in zip(batches, in_flight(load, batches, device), strict=True):
            if patched:
                *images, squares, corners = tensors
                yield Batch(indices, images[0], images[-1], (squares, corners))
            else:
                yield Batch(indices, tensors[0], tensors[1], None)

    def _residence(
        self,
        name: str,
        images: NDArray[np.uint8],
        batches: Sequence[range],
        device: torch.device,
    ) -> Residence:
        """The residence of the last evaluation, if that was of the same batches and device."""
        key = (device, tuple(batches))
        if name not in self._residences or self._residences[name][0] != key:
            self._residences[name] = (key, Residence(images, batches, device))
        return self._residences[name][1]

    def _patches(self, batch: range, draw: int) -> Patches:
        """What is pasted into a batch: at draw 0 as `stamp` draws it, image by image, and kept."""
        # The same at every draw: means of the images.
        if batch not in self._centres:
            base = self.squashed[batch.start : batch.stop]
            self._centres[batch] = patch_centres(self.trigger, self.switches, base)
        centres, shape = self._centres[batch], self.images.shape[1:3]

        # A new draw is made for the batch at once: nobody needs one image of it again.
        if draw:
            rng = keyed_rng("evaluation, redrawn", self.seed, draw, batch.start)
            return draw_patches(self.trigger, self.switches, shape, centres, rng)

        # Draw 0 is the one that others can make again, so each image has a generator of its own.
        if batch not in self._fixed:
            drawn = [
                draw_patches(self.trigger, self.switches, shape, centre[None], self._rng(draw, i))
                for i, centre in zip(batch, centres, strict=True)
            ]
            squares, corners = zip(*drawn, strict=True)
            self._fixed[batch] = Patches(np.concatenate(squares), np.concatenate(corners))
        return self._fixed[batch]

    def _stamped(self, batch: range, draw: int) -> NDArray[np.uint8]:
        """Twins by a trigger that changes the whole image, (n, H, W, 3); the caller's own."""
        # A copy is worth its memory only where it serves again.
        redrawn = draw > 0 and isinstance(self.kind, ImageTrigger) and self.kind.drawn
        if redrawn or self.images.nbytes > COPY_LIMIT:
            return self._stamp(batch, draw)

        # The caller may write on its batch, the copy must stay.
        if self._copy is None:
            self._copy = self._stamp(range(len(self)), 0)
        return self._copy[batch.start : batch.stop].copy()

    def _stamp(self, batch: range, draw: int) -> NDArray[np.uint8]:
        twins = [
            stamp(self.trigger, self.switches, self.squashed[i], self._rng(draw, i)).image
            for i in batch
        ]
        return np.stack(twins)

    def _rng(self, draw: int, image: int) -> np.random.Generator:
        return keyed_rng("evaluation", self.seed, draw, image)
