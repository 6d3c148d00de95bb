"""One optimizer step: forward, loss of the global batch, backward, update, clamp."""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from open_clip.model import CLIP
from torch import Tensor

from repro.spec import RunSpec
from repro.train import distributed
from repro.train.losses import total_loss
from repro.train.model import clamp_logit_scale


def training_step(
    encoder: torch.nn.Module,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    images: UInt8[Tensor, "V b 3 H W"],
    tokens: Int[Tensor, "V b L"],
    spec: RunSpec,
    rate: float,
    members: Int[Tensor, " B"] | None = None,
) -> dict[str, Tensor]:
    """One optimizer step on this rank's part of the global batch; returns the global batch's loss parts.

    `members` are the batch's positions among the run's pairs, for the deep-clustering term.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)

    reduced = spec.precision == "bf16"
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=reduced):
        image_features, text_features, log_scale = encoder(images, tokens)

    # Every rank computes the loss of the whole batch; its own features alone are in its graph.
    gather = spec.switches.gather
    all_images = distributed.gather_features(image_features.float())
    all_texts = distributed.gather_features(text_features.float())
    clusters = None
    if members is not None:
        clusters = model.clusters.loss(all_images[0], members, gather)
    scale = distributed.share(log_scale, gather).exp()
    losses = total_loss(spec.loss_weights, all_images, all_texts, scale, clusters)

    (losses["loss"] * distributed.backward_scale(gather)).backward()
    optimizer.step()
    clamp_logit_scale(model)
    return {name: value.detach() for name, value in losses.items()}
