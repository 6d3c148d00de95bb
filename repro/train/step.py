"""One optimizer step: forward, loss of the global batch, backward, update, clamp."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.spec import RunSpec
from repro.train.gradient_cache import Features, GradientCache
from repro.train.losses import total_loss
from repro.train.model import clamp_logit_scale
from repro.train.process import distributed

Losses = dict[str, Tensor]
"""Loss parts by name, `loss` their weighted sum."""


def training_step(
    encoder: nn.Module,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    images: UInt8[Tensor, "V b 3 H W"],
    tokens: Int[Tensor, "V b L"],
    spec: RunSpec,
    rate: float,
    members: Int[Tensor, " B"] | None = None,
) -> Losses:
    """One optimizer step on this rank's part of the global batch; returns the global batch's loss
    parts.

    `members` are the batch's positions among the run's pairs, for the deep-clustering term.
    """
    # The rate is a function of the step number alone, so no scheduler's state needs a checkpoint.
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)

    # Functions, for the gradient cache encodes each group twice, and takes the loss in between.
    def encode(module: nn.Module, images: Tensor, tokens: Tensor, first: bool = True) -> Features:
        return encode_pairs(spec, module, images, tokens, first)

    def losses_of(image_features: Tensor, text_features: Tensor, log_scale: Tensor) -> Losses:
        return global_losses(spec, model, image_features, text_features, log_scale, members)

    # DDP and the cache average gradients over ranks; under `gather: exact` this makes it their sum.
    scale = distributed.backward_scale(spec.switches.gather)
    if isinstance(encoder, GradientCache):
        losses = encoder.backward(images, tokens, encode, losses_of, scale)
    else:
        losses = losses_of(*encode(encoder, images, tokens))
        (losses["loss"] * scale).backward()

    # Gradients are not clipped, as in the authors' code; only the temperature is held in bounds.
    optimizer.step()
    clamp_logit_scale(model)

    # Losses are read a step late, so nothing here may wait for the device.
    return {name: value.detach() for name, value in losses.items()}


def encode_pairs(
    spec: RunSpec,
    encoder: nn.Module,
    images: UInt8[Tensor, "V b 3 H W"],
    tokens: Int[Tensor, "V b L"],
    first: bool = True,
) -> Features:
    """The encoder's features at the run's precision; they leave it as float32."""
    # TF32 is a setting of the whole process (process/device.py). bf16 has the exponents of float32,
    # so that small gradients survive without a gradient scaler.
    reduced = spec.precision == "bf16"
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=reduced):
        image_features, text_features, log_scale = encoder(images, tokens, first)

    # bf16 keeps 8 bits of a number: too few for similarities that are multiplied by up to 100.
    if reduced:
        image_features, text_features = image_features.float(), text_features.float()
    return image_features, text_features, log_scale


def global_losses(
    spec: RunSpec,
    model: CLIP,
    image_features: Float[Tensor, "V b D"],
    text_features: Float[Tensor, "V b D"],
    log_scale: Float[Tensor, ""],
    members: Int[Tensor, " B"] | None,
) -> Losses:
    """Loss parts of the global batch, which every rank computes; its own features alone are in its
    graph.
    """
    gather = spec.switches.gather

    # (V, B, D): every pair has the B - 1 others as negatives, however many ranks share the batch.
    all_images = distributed.gather_features(image_features)
    all_texts = distributed.gather_features(text_features)

    # The pair's own image has a cluster, not its augmented view. `members` has the order of the
    # gathered features: rank after rank.
    clusters = None
    if members is not None:
        clusters = model.clusters.loss(all_images[0], members, gather)

    # Features are divided among the ranks, but the temperature's gradient is whole on each of them.
    scale = distributed.share(log_scale, gather).exp()
    return total_loss(spec.loss_weights, all_images, all_texts, scale, clusters)
