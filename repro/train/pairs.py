"""Training pairs: batches of image and caption views, a pure function of (run seed, step).

Nothing here keeps random state: the order of an epoch and every augmentation follow from keys,
drawn for the global batch and sliced per rank, so that a run resumes at any step and does not
depend on ranks or loader processes.

Decoded images are the same for all ranks of a machine and lie in memory maps. What loader processes
read is in arrays, never in lists or dictionaries of objects, whose pages each process would copy.

Shapes: N = rows of the store, n = rows of the run, B = pairs in the global batch, b = pairs of this
rank, V = views, L = tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repro.data.keyed import keyed_rng
from repro.data.memory import machine_memory
from repro.data.shards import PairStore
from repro.names import DEFENCES
from repro.spec import RunSpec
from repro.train.loading import Batch, load_batches
from repro.train.views.image import IMAGE_VIEWS, shift_and_flip
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import TEXT_VIEWS
from repro.train.views.tokens import tokenize, trim

EPOCHS_KEPT = 2
"""Orders of epochs that are kept: at an epoch's end loader processes work on two of them."""
ROWS_KEPT = 1 << 16
"""Captions whose tokens a process keeps, at about 500 bytes each."""
MEMORY_SHARE = 1 / 32
"""Most memory, of the machine's, in which a process keeps the batches of a run for the next."""


class MadeBatches:
    """The batches of a process's last run, for those after it that train on the same ones."""

    def __init__(self) -> None:
        self.key: object = None
        self.batches: dict[int, Batch] = {}

    def of(self, key: object) -> dict[int, Batch]:
        """Those that were made under this key, by step; all others are dropped."""
        if key != self.key:
            self.key, self.batches = key, {}
        return self.batches


class _Kept(Dataset[Batch]):
    """The batches of `pairs`, each made once."""

    def __init__(self, pairs: TrainingPairs, made: dict[int, Batch]) -> None:
        self.pairs, self.made = pairs, made

    def __getitem__(self, step: int) -> Batch:
        if step not in self.made:
            self.made[step] = self.pairs[step]
        return self.made[step]


class TrainingPairs(Dataset[Batch]):
    """The batches of one run on one rank.

    Item `step` is (images uint8 (V, b, 3, H, W), tokens int64 (V, b, L)). V = 1 where the loss has
    no SSL term, else the pair and its augmented view.
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
        made: MadeBatches | None = None,
    ) -> None:
        batch = spec.schedule.global_batch_size
        if len(rows) < batch:
            raise ValueError(
                f"{spec.run_id}: {len(rows)} pairs (allowed: at least global_batch_size = {batch})"
            )
        self.spec, self.store, self.rows = spec, store, rows
        self._files = synonyms, cache
        self.rank, self.ranks, self.made = rank, ranks, made
        self.size = spec.model.vision.image_size
        self.steps_per_epoch = len(rows) // batch
        self.views = spec.num_views
        self.augmentations = DEFENCES[spec.defence_settings.name]
        if spec.stage == "pretrain":
            self.augmentations = self.augmentations._replace(image_view=spec.image_view)

        # None where there is no room: then images are decoded at every step.
        self._images = store.decoded_if_room(self.size, cache, rows)
        self._order = lru_cache(maxsize=EPOCHS_KEPT)(self._draw_order)

        # None where every second view is augmented.
        self._augmented = None if spec.second_view == "all" else self._augmented_rows()

        # Only the SSL term looks at a second view of the captions.
        self._synonyms = Synonyms.read(synonyms) if self.views == 2 else Synonyms({}, {})

        self._caption_tokens = lru_cache(ROWS_KEPT)(self._tokens_of_caption)
        # `text_view: fixed`: the authors draw a caption's view once and keep it for all epochs.
        self._view_tokens = lru_cache(ROWS_KEPT)(self._tokens_of_view)

    def batches(self, start: int, stop: int, workers: int) -> Generator[Batch, None, None]:
        """Batches of the steps start..stop-1 in order, made ahead by `workers` processes."""
        # Loader processes end with the run, and so does what they have made.
        size = len(self) * self.views * self.spec.schedule.global_batch_size * 3 * self.size**2
        if self.made is None or workers or size > MEMORY_SHARE * machine_memory():
            return load_batches(self, range(start, stop), workers)
        return load_batches(_Kept(self, self.made.of(self._key())), range(start, stop), 0)

    def _key(self) -> object:
        """All that the batches may depend on: runs that differ in their start model and learning
        rate alone have the same.
        """
        schedule = self.spec.schedule.model_copy(update={"learning_rate": 0.0})
        start: dict[str, object] = {"pretrain_objective": None, "schedule": schedule}
        same = self.spec.model_copy(update=start)
        return same, self.store.folder, self.rows.tobytes(), self._files, self.rank, self.ranks

    def positions(self, step: int) -> NDArray[np.int64]:
        """Positions in `rows` of a step's global batch, (B,); incomplete ones are dropped."""
        epoch, index = divmod(step, self.steps_per_epoch)
        batch = self.spec.schedule.global_batch_size
        return self._order(epoch)[index * batch : (index + 1) * batch]

    def __len__(self) -> int:
        return self.steps_per_epoch * self.spec.schedule.epochs

    def __getitem__(self, step: int) -> tuple[UInt8[Tensor, "V b 3 H W"], Int[Tensor, "V b L"]]:
        batch = self.spec.schedule.global_batch_size
        mine = slice(self.rank * batch // self.ranks, (self.rank + 1) * batch // self.ranks)
        positions = self.positions(step)[mine]

        # The pair itself. Draws are made for the global batch, whichever part of it is ours.
        rng = keyed_rng("views", self.spec.seed, step)
        pixels = self.pixels(positions)
        images = [shift_and_flip(pixels, self.spec.views, rng, batch, mine)]
        view = IMAGE_VIEWS[self.augmentations.base_view]
        images = [view.apply(images[0], view.draw(batch, rng)[mine])]
        tokens = [self.tokens(positions)]

        # Its augmented view.
        if self.views == 2:
            augmented = shift_and_flip(pixels, self.spec.views, rng, batch, mine)
            view = IMAGE_VIEWS[self.augmentations.image_view]
            images.append(view.apply(augmented, view.draw(batch, rng)[mine]))
            tokens.append(self._text_views(positions, step))

            # Chosen after all draws, so that the views that stay are those of `all`.
            if self._augmented is not None:
                chosen = torch.from_numpy(self._augmented[self.rows[positions]])
                images[1] = torch.where(chosen[:, None, None, None], images[1], images[0])
                tokens[1] = torch.where(chosen[:, None], tokens[1], tokens[0])

        # Trimmed together, for both views go through the text tower as one batch.
        trimmed = trim(torch.cat(tokens))
        return torch.stack(images), trimmed.unflatten(0, (self.views, -1))

    def pixels(self, positions: NDArray[np.int64]) -> UInt8[Tensor, "b 3 H W"]:
        """Stored images of some positions in `rows`."""
        # Both ways give the same bytes; a decoded set only saves the decoding.
        if self._images is not None:
            pixels = self._images[positions]
        else:
            rows = self.rows[positions].tolist()
            pixels = np.stack([self.store.decode(row, self.size) for row in rows])

        # (b, H, W, 3) as images are stored, to the order of torch: a view.
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def tokens(self, positions: NDArray[np.int64]) -> Int[Tensor, "b 77"]:
        """Tokens of the captions of some positions in `rows`."""
        tokens = [self._caption_tokens(row) for row in self.rows[positions].tolist()]
        return torch.stack(tokens).long()

    def _tokens_of_caption(self, row: int) -> Int[Tensor, " L"]:
        return tokenize([self.store.captions[row]], self.spec.switches.truncation)[0]

    def _augmented_rows(self) -> NDArray[np.bool_]:
        """Which rows of the store have an augmented second view, (N,)."""
        poisoned = np.zeros(len(self.store), bool)
        # A control trains on the store of clean pairs, which has no list of poisoned ones.
        if self.spec.poisoned:
            poisoned[self.store.rows("poisoned")] = True
        return poisoned if self.spec.second_view == "poisoned" else ~poisoned

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch, (n,): 0.2 s at six million rows, so no step draws it again."""
        return keyed_rng("order", self.spec.seed, epoch).permutation(len(self.rows))

    def _text_views(self, positions: NDArray[np.int64], step: int) -> Int[Tensor, "b 77"]:
        rows = self.rows[positions].tolist()
        if self.spec.switches.text_view == "fixed":
            return torch.stack([self._view_tokens(row) for row in rows]).long()
        return torch.stack([self._tokens_of_view(row, step) for row in rows]).long()

    def _tokens_of_view(self, row: int, *step: int) -> Int[Tensor, " L"]:
        # Keyed by row as well, so that a caption's view does not depend on its place in the batch.
        rng = keyed_rng("text view", self.spec.seed, *step, row)
        view = TEXT_VIEWS[self.augmentations.text_view]
        text = view(self.store.captions[row], rng, self._synonyms)
        return tokenize([text], self.spec.switches.truncation)[0]
