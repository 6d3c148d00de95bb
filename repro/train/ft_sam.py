"""FT-SAM (Zhu et al. 2023, arXiv 2304.11823; formula as in the repository SCLBD/BackdoorBench,
utils/defense_utils/sam.py): finetuning with the gradient at the weights of highest loss nearby.
"""

import torch

from repro.train.objectives import Losses, Step


def ft_sam_step(step: Step) -> Losses:
    """Update the weights w by their gradient at w + radius * w^2 g / ||w g||, where g is the one at
    w; products are elementwise. Losses and BatchNorm's statistics are those at w.
    """
    losses, model, optimizer = step.backward(), step.model, step.optimizer
    moved = [weight for weight in model.parameters() if weight.grad is not None]
    scaled = [weight.detach().abs() * weight.grad for weight in moved]
    norm = torch.stack([each.norm() for each in scaled]).norm().clamp(min=1e-12)
    before = [weight.detach().clone() for weight in moved]
    statistics = [buffer.clone() for buffer in model.buffers()]

    with torch.no_grad():
        for weight, each in zip(moved, scaled, strict=True):
            weight.add_(step.settings["radius"] * weight.abs() * each / norm)
    optimizer.zero_grad(set_to_none=True)
    step.backward()

    with torch.no_grad():
        for now, was in zip([*moved, *model.buffers()], [*before, *statistics], strict=True):
            now.copy_(was)
    optimizer.step()
    return losses
