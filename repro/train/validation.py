"""Validation loss: what picks the epoch under `model_age: best_validation_loss` (the authors' CC3M models)."""

from __future__ import annotations

import torch
from open_clip.model import CLIP

from repro.train.losses import mmcl_loss
from repro.train.model import encode_text, normalise
from repro.train.pairs import TrainingPairs


@torch.inference_mode()
def validation_loss(model: CLIP, pairs: TrainingPairs) -> float:
    """Mean MMCL loss (Eq. 1) over the global batches of `pairs` as they are stored, in eval mode."""
    was_training = model.training
    model.eval()
    device, losses = model.logit_scale.device, []
    for images, tokens in pairs.plain_batches():
        image_features = model.encode_image(normalise(images[0].to(device)), normalize=True)
        losses.append(
            mmcl_loss(
                image_features, encode_text(model, tokens[0].to(device)), model.logit_scale.exp()
            ).item()
        )
    model.train(was_training)
    return sum(losses) / len(losses)
