"""The code of the entries, as it would stand in the lists of the package."""

import numpy as np
from torch import nn

from repro.data.triggers import PatchTrigger
from repro.train.defences import Defence
from repro.train.objectives import Batch, Losses, Objective, Step

WHITE = PatchTrigger(
    lambda centres, size, switches, rng: np.full((len(centres), size, size, 3), 255, np.uint8)
)


def pairwise(ssl_weight: float) -> Objective:
    """Mean squared distance of an image from its text."""

    def loss(batch: Batch, modules: nn.Module | None) -> Losses:
        return {"distance": (batch.images[0] - batch.texts[0]).square().sum(dim=-1).mean()}

    return Objective({"distance": 1.0}, loss)


def half_step(step: Step) -> Losses:
    """A step with a part of the gradient."""
    losses = step.backward()
    for weight in step.model.parameters():
        if weight.grad is not None:
            weight.grad *= step.settings["part"]
    step.optimizer.step()
    return losses


HALF_STEP = Defence(step=half_step)
