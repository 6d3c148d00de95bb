"""Defences: ways to train a poisoned model so that it loses its backdoor and keeps its accuracy.

`DEFENCES` has an entry for every name in repro/names.py that is not retired; label and settings are
declared there. To add one, give it a name there and an entry here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from open_clip.model import CLIP

from repro.names import DefenceName, Loss
from repro.spec import RunSpec
from repro.train.fresh_head import FRESH_HEAD
from repro.train.ft_sam import ft_sam_step
from repro.train.objectives import OBJECTIVES, Losses, Objective, Step, with_ssl_parts
from repro.train.par import par, without_push

START_LOG_LOGIT_SCALE = math.log(1 / 0.07)
"""Log of 1/tau before training (Radford et al. 2021; open_clip)."""
Settings = Mapping[str, float]
"""Every setting of a defence by name."""


def _finetuning(loss: Loss, settings: Settings) -> Objective:
    return OBJECTIVES[loss](settings.get("ssl_weight", 1.0))


@dataclass(frozen=True)
class Defence:
    """Where a defence departs from finetuning on clean pairs."""

    objective: Callable[[Loss, Settings], Objective] = _finetuning
    """(loss of the run, settings) to what is minimised."""
    start: Callable[[CLIP, Settings, int], None] | None = None
    """(model on the CPU, settings, seed): changes the weights before the first evaluation."""
    step: Callable[[Step], Losses] | None = None
    """Makes the update of a step, and returns the loss parts."""
    keeps_start: bool = False
    """`Step.start` has the weights of the start model, which take the memory of a model."""


@torch.no_grad()
def shrink_and_perturb(model: CLIP, settings: Settings, seed: int) -> None:
    """Scale the weights by `shrink` and add normal noise of deviation `perturb` (Ash and Adams
    2020, arXiv 1910.08475). BatchNorm statistics stay.
    """
    # Drawn on the CPU, in the order of the parameters.
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * settings["perturb"]
        parameter.mul_(settings["shrink"]).add_(noise)


@torch.no_grad()
def reset_temperature(model: CLIP, settings: Settings, seed: int) -> None:
    """Give the temperature the value that pre-training begins with."""
    model.logit_scale.fill_(START_LOG_LOGIT_SCALE)


DEFENCES: dict[DefenceName, Defence] = {
    "cleanclip": Defence(),
    "shrink_and_perturb": Defence(start=shrink_and_perturb),
    # CleanCLIP with other views, which repro/names.py names.
    "crop_view": Defence(),
    "noise_view": Defence(),
    "mixed_views": Defence(),
    "word_view": Defence(),
    "reset_temperature": Defence(start=reset_temperature),
    "fresh_head": Defence(lambda loss, settings: FRESH_HEAD),
    "par": Defence(lambda loss, settings: par(settings["threshold"])),
    "par_view": Defence(lambda loss, settings: without_push()),
    # With the run's own shift and flip, which the frozen model sees too.
    "par_push": Defence(lambda loss, settings: par(settings["threshold"])),
    "ft_sam": Defence(lambda loss, settings: OBJECTIVES["mmcl"](1.0), step=ft_sam_step),
}


def objective_of(spec: RunSpec) -> Objective:
    """What the run minimises."""
    name, settings = spec.defence_settings
    objective = DEFENCES[name].objective(spec.loss, settings)
    return with_ssl_parts(objective) if spec.ssl_parts and spec.num_views == 2 else objective
