"""One optimizer step: forward, loss of the global batch, backward, update, clamp."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float, Int, UInt8
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.spec import RunSpec
from repro.train.defences import DEFENCES, objective_of
from repro.train.gradient_cache import Features, GradientCache
from repro.train.model import captions_by_length, clamp_logit_scale
from repro.train.objectives import Batch, Losses, Objective, Step
from repro.train.process import distributed


def training_step(
    encoder: nn.Module,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    images: UInt8[Tensor, "V b 3 H W"],
    tokens: Int[Tensor, "V b L"],
    spec: RunSpec,
    rate: float,
    start: nn.Module | None = None,
    start_weights: Mapping[str, Tensor] = MappingProxyType({}),
) -> Losses:
    """One optimizer step on this rank's part of the global batch; returns the global batch's loss
    parts, and `loss`, their weighted sum.

    `start` encodes by the frozen start model, for objectives that need it; `start_weights` are its
    parameters, for defences that keep them.
    """
    objective, (name, settings) = objective_of(spec), spec.defence_settings
    # The rate is a function of the step number alone, so no scheduler's state needs a checkpoint.
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)

    before = None
    if start is not None:
        with torch.no_grad():
            before = encode_pairs(spec, start, images, tokens)[:2]

    # Functions, for the gradient cache encodes each group twice, and takes the loss in between.
    def encode(module: nn.Module, images: Tensor, tokens: Tensor, first: bool = True) -> Features:
        return encode_pairs(spec, module, images, tokens, first)

    def losses_of(image_features: Tensor, text_features: Tensor, log_scale: Tensor) -> Losses:
        features = (image_features, text_features, log_scale)
        return global_losses(spec, objective, model, features, before)

    # DDP and the cache average gradients over ranks; under `gather: exact` this makes it their sum.
    scale = distributed.backward_scale(spec.switches.gather)

    def backward() -> Losses:
        if isinstance(encoder, GradientCache):
            return encoder.backward(images, tokens, encode, losses_of, scale)
        losses = losses_of(*encode(encoder, images, tokens))
        (losses["loss"] * scale).backward()
        return losses

    # Gradients are not clipped, as in the authors' code; only the temperature is held in bounds.
    update = DEFENCES[name].step
    if update is not None:
        losses = update(Step(model, optimizer, backward, settings, start_weights))
    else:
        losses = backward()
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
    captions = captions_by_length(tokens, spec.text_parts, images.device, spec.compile)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=reduced):
        image_features, text_features, log_scale = encoder(images, captions, first)

    # bf16 keeps 8 bits of a number: too few for similarities that are multiplied by up to 100.
    if reduced:
        image_features, text_features = image_features.float(), text_features.float()
    return image_features, text_features, log_scale


def global_losses(
    spec: RunSpec,
    objective: Objective,
    model: CLIP,
    features: Features,
    before: tuple[Float[Tensor, "V b D"], Float[Tensor, "V b D"]] | None,
) -> Losses:
    """Loss parts of the global batch, which every rank computes from its own features (V, b, D) and
    those of the others; `before` are its own by the start model.
    """
    images, texts, log_scale = features
    start = None
    if before is not None:
        start = distributed.gather_features(before[0]), distributed.gather_features(before[1])
    batch = Batch(
        # Every pair has the B - 1 others as negatives, however many ranks share the batch.
        images=distributed.gather_features(images),
        texts=distributed.gather_features(texts),
        # Features are divided among the ranks, but the temperature's gradient is whole on each.
        scale=distributed.share(log_scale, spec.switches.gather).exp(),
        start=start,
        gather=spec.switches.gather,
    )
    return objective.total(batch, getattr(model, "objective", None))
