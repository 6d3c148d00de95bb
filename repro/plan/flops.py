"""The floating-point operations of a profile's model, counted by torch's FlopCounterMode without
memory.

The model lives on the meta device, where attention is made of matrix products that the counter
sees; the fused kernel of CPUs hides them from it. Counted are matrix products and convolutions (a
multiply-add is two operations); normalisations, activations and AdamW have few operations and cost
memory traffic instead. Left out is what defences add: PAR's frozen encoders, the second pass of
FT-SAM.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro.data.templates import templates_of
from repro.evaluate.prompts import TEXT_BATCH, PromptSet
from repro.names import LOSSES
from repro.plan.work import Counts, kind_of
from repro.profile import load_classnames, runs_of
from repro.spec import Dataset, Profile, RunSpec
from repro.train.build import build_model
from repro.train.model import encode_text, normalise
from repro.train.objectives import OBJECTIVES, Batch

META = torch.device("meta")
SAMPLE = 2
"""Images or captions in a count: BatchNorm trains on no fewer."""


def count(profile: Profile, caption_tokens: dict[Dataset, int], num_images: int) -> Counts:
    """Count the profile's model, with captions of so many tokens and `num_images` evaluation
    images.
    """
    spec = profile.pretrain.model
    side = spec.vision.image_size
    with META:
        model = build_model(spec, 0, "fp32")
        images = normalise(torch.zeros(SAMPLE, 3, side, side, dtype=torch.uint8))

    @cache
    def text(length: int) -> tuple[int, int]:
        tokens = torch.zeros(SAMPLE, length, dtype=torch.long, device=META)
        return _counted(lambda: encode_text(model, tokens))

    image_forward, image_step = _counted(lambda: model.encode_image(images, normalize=True))
    text_forward, text_step = {}, {}
    for dataset, length in caption_tokens.items():
        text_forward[dataset], text_step[dataset] = text(length)

    # Prompts go through the tower in batches, each as long as its longest.
    names = load_classnames(profile)
    prompts = PromptSet(names, templates_of(profile.evaluate), profile.switches.truncation)
    prompts_forward = 0
    for lengths in prompts.lengths.split(TEXT_BATCH):
        forward, _ = text(int(lengths.max()))
        prompts_forward += forward * len(lengths)

    similarity = 2 * spec.embed_dim * len(names)
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_forward=image_forward,
        image_step=image_step,
        text_forward=text_forward,
        text_step=text_step,
        loss={kind_of(run): _loss(run) for run in runs_of(profile)},
        prompts_forward=prompts_forward,
        evaluation_image=2 * (image_forward + similarity),
        num_images=num_images,
        classes=len(names),
    )


def _counted(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of a tower for one of its SAMPLE inputs: forward, and with backward."""
    with FlopCounterMode(display=False) as counter:
        output = forward()
        first = counter.get_total_flops()
        output.sum().backward()
    return first // SAMPLE, counter.get_total_flops() // SAMPLE


def _loss(spec: RunSpec) -> int:
    """FLOPs of the loss, forward and backward, for one view of a pair."""
    views = spec.num_views
    # A weight of 0, and a defence with one view, leave MMCL.
    loss = spec.loss if views == LOSSES[spec.loss].views else "mmcl"
    pairs = spec.schedule.global_batch_size
    width = spec.model.embed_dim
    own, start = None, None
    with META:
        objective = OBJECTIVES[loss](1.0)
        images = torch.zeros(views, pairs, width, requires_grad=True)
        texts = torch.zeros_like(images, requires_grad=True)
        if objective.modules is not None:
            own = objective.modules(width)
        if objective.needs_start:
            start = (images.detach(), texts.detach())
        batch = Batch(images, texts, torch.ones(()), start)
    with FlopCounterMode(display=False) as counter:
        objective.total(batch, own)["loss"].backward()
    total: int = counter.get_total_flops()
    return total // (views * pairs)
