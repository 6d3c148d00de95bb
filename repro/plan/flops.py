"""The floating-point operations of a profile's model, counted by torch's FlopCounterMode without
memory.

The model lives on the meta device, where attention is made of matrix products that the counter
sees; the fused kernel of CPUs hides them from it. Counted are matrix products and convolutions (a
multiply-add is two operations); normalisations, activations and AdamW have few operations and cost
memory traffic instead. Left out is the deep-clustering term of the studies.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro.data.templates import templates_of
from repro.evaluate.prompts import TEXT_BATCH, PromptSet
from repro.plan.work import Counts, kind_of
from repro.profile import clean_runs, load_classnames, pretrain_runs
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
        pixels = torch.zeros(SAMPLE, 3, side, side, dtype=torch.uint8)

    @cache
    def text(length: int) -> tuple[int, int]:
        tokens = torch.zeros(SAMPLE, length, dtype=torch.long, device=META)
        return _counted(lambda: encode_text(model, tokens))

    image_forward, image_step = _counted(
        lambda: model.encode_image(normalise(pixels), normalize=True)
    )
    texts = {dataset: text(length) for dataset, length in caption_tokens.items()}

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
        text_forward={dataset: forward for dataset, (forward, _) in texts.items()},
        text_step={dataset: step for dataset, (_, step) in texts.items()},
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
