"""PAR, "perturb and recover" (Singh et al. 2024, arXiv 2412.00727; formula as in the repository
nmndeep/PerturbAndRecover, losses.py): finetuning that pushes the embeddings away from those of the
poisoned model, up to a distance.

Shapes: B = pairs in the global batch, D = embedding width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repro.train.objectives import Batch, Losses, Objective, mmcl_loss


def push(
    now: Float[Tensor, "B D"], start: Float[Tensor, "B D"], threshold: float
) -> Float[Tensor, ""]:
    """Mean squared distance of normalised embeddings from those of the start model, 0 to 4; beyond
    `threshold` it is 0 and has no gradient.

    Where both are equal the gradient is 0 too. Both models get the same augmented pairs, so no
    augmentation tells them apart: images differ from the first step on, because BatchNorm takes the
    statistics of the batch in the trained model alone, captions once the MMCL loss has made a step.
    """
    distance = (now - start).square().sum(dim=-1).mean()
    return torch.where(distance <= threshold, distance, torch.zeros_like(distance))


def par(threshold: float) -> Objective:
    """L = L_MMCL - (push of images + push of texts) / 2, with a temperature that does not train."""

    def loss(batch: Batch, _: nn.Module | None) -> Losses:
        assert batch.start is not None
        images = push(batch.images[0], batch.start[0][0], threshold)
        texts = push(batch.texts[0], batch.start[1][0], threshold)
        return {**_steady_mmcl(batch), "push": (images + texts) / 2}

    return Objective({"mmcl": 1.0, "push": -1.0}, loss, needs_start=True)


def without_push() -> Objective:
    """L_MMCL with a temperature that does not train: what is left of `par` without its push."""
    return Objective({"mmcl": 1.0}, lambda batch, _: _steady_mmcl(batch))


def _steady_mmcl(batch: Batch) -> Losses:
    return {"mmcl": mmcl_loss(batch.images[0], batch.texts[0], batch.scale.detach())}
