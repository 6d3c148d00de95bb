"""Training pairs: batches of image and caption views, a pure function of (run seed, step).

Nothing here keeps random state: the order of an epoch and every augmentation follow from keys,
drawn for the global batch and sliced per rank, so that a run resumes at any step and does not
depend on ranks or loader workers.

Shapes: N = rows of the store, B = pairs in the global batch, b = pairs of this rank, V = views, L
= tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.spec import RunSpec, Views
from repro.train.views.image import auto_augment, draw_policies
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import eda
from repro.train.views.tokens import tokenize, trim

DECODED_LIMIT = 20 * 2**30
"""Bytes up to which a run's images are kept decoded on disk and memory-mapped; more are decoded
per batch. A cleaning set of 100,000 pairs at 224 px is 15 GB; what pre-training reads comes to
hundreds.
"""


class TrainingPairs(Dataset[tuple[Tensor, Tensor]]):
    """The batches of one run on one rank: item `step` is (images uint8 (V, b, 3, H, W), tokens
    int64 (V, b, L)).

    V = 1 where the loss has no SSL term, else the pair and its augmented view.
    """

    def __init__(
        self,
        spec: RunSpec,
        store: PairStore,
        rows: NDArray[np.int64],
        synonyms: Path,
        cache: Path,
        rank: int,
        ranks: int,
    ) -> None:
        batch = spec.schedule.global_batch_size
        if len(rows) < batch:
            raise ValueError(
                f"{spec.run_id}: {len(rows)} pairs (allowed: at least global_batch_size = {batch})"
            )
        if batch % ranks:
            raise ValueError(
                f"{spec.run_id}: global_batch_size: {batch} (allowed: a multiple of the {ranks} "
                "ranks)"
            )
        self.spec, self.store, self.rows = spec, store, rows
        self.rank, self.ranks = rank, ranks
        self.size = spec.model.vision.image_size
        self.place = np.full(len(store), -1)
        self.place[rows] = np.arange(len(rows))
        self.images = (
            store.decoded(self.size, cache, rows=rows)
            if len(rows) * self.size**2 * 3 <= DECODED_LIMIT
            else None
        )
        self.steps_per_epoch = len(rows) // batch
        captions = store.captions
        self.captions = (
            {int(row): captions[row] for row in rows} if spec.loss_weights["ssl"] else {}
        )
        self.tokens = tokenize(
            [captions[row] for row in rows], spec.switches.truncation
        )  # (len(rows), 77)
        self.synonyms = Synonyms.read(synonyms) if self.captions else Synonyms({}, {})
        self.views = spec.num_views
        self._fixed_views: Tensor | None = None
        if self.views == 2 and spec.switches.text_view == "fixed":
            texts = [
                eda(
                    self.captions[int(row)],
                    keyed_rng("text view", spec.seed, int(row)),
                    self.synonyms,
                )
                for row in rows
            ]
            self._fixed_views = tokenize(texts, spec.switches.truncation)

    def batches(self, start: int, stop: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the steps start..stop-1 in order, prefetched by `workers` processes (0: made
        on demand).
        """
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
        )
        return iter(loader)

    def plain(self, positions: slice) -> tuple[UInt8[Tensor, "b 3 H W"], Int[Tensor, "b L"]]:
        """Pairs as they are stored, by their positions in `rows`."""
        return self.pixels(self.rows[positions]), trim(self.tokens[positions].long())

    def positions(self, step: int) -> NDArray[np.int64]:
        """Positions in `rows` of the global batch of a step, (B,); the incomplete last batch of an
        epoch is dropped.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        batch = self.spec.schedule.global_batch_size
        return keyed_rng("order", self.spec.seed, epoch).permutation(len(self.rows))[
            index * batch : (index + 1) * batch
        ]

    def __len__(self) -> int:
        return self.steps_per_epoch * self.spec.schedule.epochs

    def __getitem__(self, step: int) -> tuple[UInt8[Tensor, "V b 3 H W"], Int[Tensor, "V b L"]]:
        batch = self.spec.schedule.global_batch_size
        order = self.positions(step)
        mine = slice(self.rank * batch // self.ranks, (self.rank + 1) * batch // self.ranks)
        rng = keyed_rng("views", self.spec.seed, step)
        pixels = self.pixels(self.rows[order[mine]])
        images = [shift_and_flip(pixels, self.spec.views, rng, batch, mine)]
        tokens = [self.tokens[order[mine]]]
        if self.views == 2:
            augmented = shift_and_flip(pixels, self.spec.views, rng, batch, mine)
            images.append(auto_augment(augmented, draw_policies(batch, rng)[mine]))
            tokens.append(self._text_views(order[mine], step))
        return torch.stack(images), trim(torch.cat(tokens).long()).unflatten(0, (self.views, -1))

    def pixels(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "b 3 H W"]:
        """Stored images of some rows."""
        if self.images is not None:
            pixels = self.images[self.place[rows]]
        else:
            pixels = np.stack([self.store.decode(int(row), self.size) for row in rows])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _text_views(self, positions: NDArray[np.int64], step: int) -> Int[Tensor, "b 77"]:
        if self._fixed_views is not None:
            return self._fixed_views[positions]
        rows = self.rows[positions]
        texts = [
            eda(
                self.captions[int(row)],
                keyed_rng("text view", self.spec.seed, step, int(row)),
                self.synonyms,
            )
            for row in rows
        ]
        return tokenize(texts, self.spec.switches.truncation)


def shift_and_flip(
    pixels: UInt8[Tensor, "b 3 H W"],
    views: Views,
    rng: np.random.Generator,
    batch: int,
    mine: slice,
) -> UInt8[Tensor, "b 3 H W"]:
    """Whole-pixel shift with repeated edges and horizontal flip, drawn for the global batch of
    `batch` pairs.

    Whole pixels, since resampling would blur a noise trigger in training but not at evaluation.
    """
    reach = views.shift_pixels
    shifts = rng.integers(-reach, reach + 1, size=(batch, 2))[mine]
    flips = (rng.random(batch) < 0.5)[mine] & views.flip
    if not reach and not views.flip:
        return pixels
    height, width = pixels.shape[-2:]
    ys = np.clip(np.arange(height) + shifts[:, :1], 0, height - 1)  # (b, H)
    xs = np.clip(np.arange(width) + shifts[:, 1:], 0, width - 1)  # (b, W)
    xs = np.where(flips[:, None], xs[:, ::-1], xs)
    places = (
        (np.arange(len(pixels)) * height * width)[:, None, None]
        + ys[:, :, None] * width
        + xs[:, None, :]
    )  # (b, H, W)
    return torch.from_numpy(
        pixels.permute(0, 2, 3, 1).numpy().reshape(-1, 3).take(places, axis=0)
    ).permute(0, 3, 1, 2)
