"""Floating-point operations of a profile's model, counted by torch's FlopCounterMode on the model
itself, without memory.

The model lives on the meta device, where attention is made of matrix products that the counter
sees; the fused kernel of CPUs hides them from it. Counted are matrix products and convolutions (a
multiply-add is two operations); normalisations, activations and AdamW have few operations and cost
memory traffic instead. Left out is the deep-clustering term of the studies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro.data.templates import templates_of
from repro.evaluate.prompts import TEXT_BATCH, PromptSet
from repro.plan.work import Work, kind_of
from repro.profile import clean_runs, load_classnames, pretrain_runs
from repro.spec import Profile, RunSpec
from repro.train.model import build_model, encode_text, normalise
from repro.train.objectives import OBJECTIVES, Batch

META = torch.device("meta")
SAMPLE = 2
"""Images or captions in a count: BatchNorm trains on no fewer."""


@dataclass(frozen=True, slots=True)
class Counts:
    """FLOPs of one model."""

    parameters: int
    image_forward: int
    """Of one image through the image tower."""
    image_step: int
    """The same, forward and backward."""
    text_forward: int
    """Of one caption through the text tower."""
    text_step: int
    loss: dict[str, int]
    """Of the similarity matrices, forward and backward, for one view of a pair, by `kind_of`."""
    prompts: int
    """Different prompts of an evaluation."""
    prompts_forward: int
    """All of them through the text tower, batch by batch as they are trimmed."""
    evaluation_image: int
    """An image without and with trigger, and their similarities to the classes."""
    num_images: int
    """Images of a whole evaluation."""
    classes: int

    @property
    def evaluation(self) -> int:
        """A whole evaluation: prompts once, and every image."""
        return self.prompts_forward + self.num_images * self.evaluation_image

    def evaluations(self, work: Work) -> int:
        """All evaluations of a run."""
        left_out = self.num_images - (work.spec.images_between or 0) * self.classes
        return work.evaluations * self.evaluation - work.partial * left_out * self.evaluation_image

    def pair_view(self, kind: str) -> int:
        """One view of one pair through both towers, forward and backward, and its part of the
        loss.
        """
        return self.image_step + self.text_step + self.loss[kind]

    def training(self, work: Work) -> int:
        """All training steps of a run."""
        return work.pairs * work.spec.num_views * self.pair_view(kind_of(work.spec))


def count(profile: Profile, caption_tokens: int, num_images: int) -> Counts:
    """Count the profile's model, with captions of `caption_tokens` tokens and `num_images`
    evaluation images.
    """
    spec = profile.pretrain.model
    with torch.device("meta"):
        model = build_model(spec, 0, "fp32")
    side = spec.vision.image_size
    pixels = torch.zeros(SAMPLE, 3, side, side, dtype=torch.uint8, device=META)

    def text(length: int) -> Tensor:
        return encode_text(model, torch.zeros(SAMPLE, length, dtype=torch.long, device=META))

    image_forward, image_step = _counted(
        lambda: model.encode_image(normalise(pixels), normalize=True)
    )
    text_forward, text_step = _counted(lambda: text(caption_tokens))

    # Prompts go through the tower in batches, each as long as its longest.
    names = load_classnames(profile)
    prompts = PromptSet(names, templates_of(profile.evaluate), profile.switches.truncation)
    encoded: Counter[int] = Counter()
    for part in prompts.lengths.split(TEXT_BATCH):
        encoded[int(part.max())] += len(part)
    prompts_forward = sum(
        _counted(partial(text, length))[0] * captions for length, captions in encoded.items()
    )

    similarity = 2 * spec.embed_dim * len(names)
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_forward=image_forward,
        image_step=image_step,
        text_forward=text_forward,
        text_step=text_step,
        loss={kind_of(run): _loss(run) for run in [*pretrain_runs(profile), *clean_runs(profile)]},
        prompts=len(prompts.lengths),
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
    views, batch = spec.num_views, spec.schedule.global_batch_size
    shape = views, batch, spec.model.embed_dim
    images = torch.zeros(shape, device=META, requires_grad=True)
    texts = torch.zeros(shape, device=META, requires_grad=True)

    batch_of = Batch(images, texts, torch.ones((), device=META), members=None, start=None)
    objective = OBJECTIVES[spec.loss](1.0 if views > 1 else 0.0)
    with FlopCounterMode(display=False) as counter:
        objective.total(batch_of, None)["loss"].backward()
    total: int = counter.get_total_flops()
    return total // (views * batch)
