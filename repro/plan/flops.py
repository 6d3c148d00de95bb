"""What a profile has to do: the pairs and evaluations of every run, from its specifications alone,
and the floating-point operations of its model, counted by torch's FlopCounterMode without memory.

The model lives on the meta device, where attention is made of matrix products that the counter
sees; the fused kernel of CPUs hides them from it. Counted are matrix products and convolutions (a
multiply-add is two operations); normalisations, activations and AdamW have few operations and cost
memory traffic instead. Left out is the deep-clustering term of the studies.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro.data.templates import templates_of
from repro.evaluate.prompts import TEXT_BATCH, PromptSet
from repro.profile import clean_runs, load_classnames, pretrain_runs
from repro.spec import Dataset, Profile, RunSpec
from repro.train.model import build_model, encode_text, normalise
from repro.train.objectives import OBJECTIVES, Batch
from repro.train.schedule import evaluation_steps, num_steps

META = torch.device("meta")
SAMPLE = 2
"""Images or captions in a count: BatchNorm trains on no fewer."""


class Work(NamedTuple):
    """What one training run does, unless it ends early."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    evaluations: int
    """Evaluations of its own: the cleaning runs of one model share that of the start model, and the
    first one has it.
    """
    partial: int
    """Evaluations among them of `images_between` images a class."""


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take the same time a pair: stage, loss and batch."""
    return f"{spec.stage} {spec.loss} x{spec.schedule.global_batch_size}"


def work_of(profile: Profile, dataset: Dataset | None = None) -> list[Work]:
    """The work of every run of the profile, or of those on one dataset, pre-trainings first."""
    result: list[Work] = []
    for spec in [*pretrain_runs(profile, dataset), *clean_runs(profile, dataset)]:
        steps_per_epoch = num_rows(profile, spec) // spec.schedule.global_batch_size
        steps = evaluation_steps(spec, steps_per_epoch)
        partial = sum(step % steps_per_epoch > 0 for step in steps) if spec.images_between else 0

        # The start model of several cleaning runs is evaluated once.
        start = spec.stage, spec.cell, spec.seed
        shared = any((w.spec.stage, w.spec.cell, w.spec.seed) == start for w in result)
        pairs = num_steps(spec, steps_per_epoch) * spec.schedule.global_batch_size
        result.append(Work(spec, pairs, len(steps) - shared, partial))
    return result


def num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped
    (repro/data/poison.py).
    """
    data = profile.data
    if spec.clean_size is not None:
        return data.cleaning_sizes[spec.clean_size] + spec.poisons_left
    held_out = profile.switches.cleaning_pairs == "held_out"
    kept = max(data.cleaning_sizes.values()) if held_out else 0
    return data.num_pairs[spec.dataset] - data.num_validation - kept


class Counts(NamedTuple):
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
    prompts_forward: int
    """All prompts through the text tower, batch by batch as they are trimmed."""
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
    side = spec.vision.image_size
    with META:
        model = build_model(spec, 0, "fp32")
        pixels = torch.zeros(SAMPLE, 3, side, side, dtype=torch.uint8)

    @cache
    def text(length: int) -> tuple[int, int]:
        tokens = torch.zeros(SAMPLE, length, dtype=torch.long, device=META)
        return _counted(lambda: encode_text(model, tokens))

    image_forward, image_step = _counted(
        lambda: model.encode_image(normalise(pixels), normalize=True)
    )
    text_forward, text_step = text(caption_tokens)

    # Prompts go through the tower in batches, each as long as its longest.
    names = load_classnames(profile)
    prompts = PromptSet(names, templates_of(profile.evaluate), profile.switches.truncation)
    batches = prompts.lengths.split(TEXT_BATCH)
    prompts_forward = sum(text(int(part.max()))[0] * len(part) for part in batches)

    similarity = 2 * spec.embed_dim * len(names)
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_forward=image_forward,
        image_step=image_step,
        text_forward=text_forward,
        text_step=text_step,
        loss={kind_of(run): _loss(run) for run in [*pretrain_runs(profile), *clean_runs(profile)]},
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
    with META:
        images, texts = (torch.zeros(shape, requires_grad=True) for _ in range(2))
        objective = OBJECTIVES[spec.loss](1.0 if views > 1 else 0.0)
        own, members = None, None
        if objective.modules is not None:
            own = objective.modules(spec.model.embed_dim, batch)
            members = torch.zeros(batch, dtype=torch.long)
        start = (images.detach(), texts.detach()) if objective.needs_start else None
        batch_of = Batch(images, texts, torch.ones(()), members, start)
    with FlopCounterMode(display=False) as counter:
        objective.total(batch_of, own)["loss"].backward()
    total: int = counter.get_total_flops()
    return total // (views * batch)
