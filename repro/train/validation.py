"""Validation loss: what picks the epoch under `model_age: best_validation_loss` (the authors' CC3M
models).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor

from repro.train.model import encode_text, normalise
from repro.train.objectives import mmcl_loss
from repro.train.pairs import TrainingPairs
from repro.train.process import distributed


@torch.inference_mode()
def validation_loss(model: CLIP, pairs: TrainingPairs) -> float:
    """Mean MMCL loss (Eq. 1) over the global batches of `pairs` as they are stored, in eval mode.

    Each rank encodes its part of a batch, `norm_batch_size` pairs at a time, and all get the same
    loss of the whole.
    """
    # With running statistics BatchNorm makes no difference between large and small parts.
    was_training = model.training
    model.eval()

    # Whole global batches, as in training: the loss depends on how many negatives there are.
    losses = []
    batch = pairs.spec.schedule.global_batch_size
    for begin in range(0, pairs.steps_per_epoch * batch, batch):
        images, texts = _features(model, pairs, begin)
        losses.append(mmcl_loss(images, texts, model.logit_scale.exp()).item())

    model.train(was_training)
    return sum(losses) / len(losses)


def _features(
    model: CLIP, pairs: TrainingPairs, begin: int
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Features of the global batch that begins at this position."""
    # `pairs` is not divided among the ranks, so each takes its part of the batch here.
    schedule, device = pairs.spec.schedule, model.logit_scale.device
    rank, ranks = distributed.rank(), distributed.ranks()
    mine = range(
        begin + schedule.global_batch_size * rank // ranks,
        begin + schedule.global_batch_size * (rank + 1) // ranks,
    )

    # Encoded in parts, to need no more memory than a training step.
    images, texts = [], []
    for at in range(mine.start, mine.stop, schedule.norm_batch_size):
        pixels, tokens = pairs.plain(slice(at, min(at + schedule.norm_batch_size, mine.stop)))
        images.append(model.encode_image(normalise(pixels.to(device)), normalize=True))
        texts.append(encode_text(model, tokens.to(device)))

    return distributed.gather_rows(torch.cat(images)), distributed.gather_rows(torch.cat(texts))
