"""Validation loss: what picks the epoch under `model_age: best_validation_loss` (the authors' CC3M
models).
"""

import numpy as np
import torch
from open_clip.model import CLIP

from repro.train.model import encode_text, normalise
from repro.train.objectives import mmcl_loss
from repro.train.pairs import TrainingPairs
from repro.train.process import distributed
from repro.train.views.tokens import trim


@torch.inference_mode()
def validation_loss(model: CLIP, pairs: TrainingPairs) -> float:
    """Mean MMCL loss (Eq. 1) over the global batches of `pairs` as they are stored, in eval mode.

    Each rank encodes its part of a batch, `norm_batch_size` pairs at a time, and all get the same
    loss of the whole. `pairs` itself is not divided among them.
    """
    # With running statistics BatchNorm makes no difference between large and small parts.
    was_training = model.training
    model.eval()

    # Whole global batches, as in training: the loss depends on how many negatives there are.
    losses, schedule, device = [], pairs.spec.schedule, model.logit_scale.device
    batch, rank, ranks = schedule.global_batch_size, distributed.rank(), distributed.ranks()
    for begin in range(0, pairs.steps_per_epoch * batch, batch):
        first, last = begin + batch * rank // ranks, begin + batch * (rank + 1) // ranks

        # Encoded in parts, to need no more memory than a training step.
        images, texts = [], []
        for at in range(first, last, schedule.norm_batch_size):
            part = np.arange(at, min(at + schedule.norm_batch_size, last))
            pixels, tokens = pairs.pixels(part), trim(pairs.tokens(part))
            images.append(model.encode_image(normalise(pixels.to(device)), normalize=True))
            texts.append(encode_text(model, tokens.to(device)))

        image, text = (distributed.gather_rows(torch.cat(part)) for part in (images, texts))
        losses.append(mmcl_loss(image, text, model.logit_scale.exp()).item())

    model.train(was_training)
    return sum(losses) / len(losses)
