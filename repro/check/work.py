"""The models and batches that the checks work on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from open_clip.model import CLIP
from torch import Tensor

from repro.profile import load_profile, pretrain_runs
from repro.spec import Objective, Profile, RunSpec
from repro.train.model import PairEncoder, build_model, build_optimizer
from repro.train.step import training_step

Precision = str
RATE = 1e-4
BLOCK = 8
"""Side of the blocks of the images, pixels: white noise would be an image like no other."""


@dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    profile_name: str
    pairs: int
    """Pairs of a step, in one BatchNorm group."""
    long: int
    """Tokens of the longest captions."""
    short: int
    images: int
    """Evaluation images."""
    classes: int
    """Classes of the zero-shot task, of which the prompts are made."""
    steps: int
    """Timed steps."""

    @cached_property
    def profile(self) -> Profile:
        """Whose model and settings are checked."""
        return load_profile(self.profile_name)

    def spec(self, objective: Objective, precision: str) -> RunSpec:
        """The pre-training of an objective, in another precision."""
        found = next(run for run in pretrain_runs(self.profile, "cc6m", objective))
        return found.model_copy(update={"precision": precision})

    @property
    def size(self) -> int:
        """Side of an image, pixels."""
        return self.profile.pretrain.model.vision.image_size


FULL = Scale("paper", pairs=256, long=77, short=40, images=4096, classes=1000, steps=12)
TOY = Scale("smoke", pairs=16, long=24, short=16, images=64, classes=20, steps=2)


class Trainee:
    """A model in training, with its optimizer and encoder."""

    def __init__(self, spec: RunSpec, device: torch.device, seed: int = 0, groups: int = 1) -> None:
        self.spec, self.device = spec, device
        self.model: CLIP = build_model(spec.model, seed, "fp32").to(device)
        self.model.train()
        self.optimizer = build_optimizer(
            self.model, spec.optimizer, spec.switches.weight_decay_rule
        )
        self.encoder: torch.nn.Module = PairEncoder(self.model, groups)

    def step(self, images: Tensor, tokens: Tensor, rate: float = RATE) -> Tensor:
        """One step; the loss before it."""
        losses = training_step(
            self.encoder, self.model, self.optimizer, images, tokens, self.spec, rate
        )
        return losses["loss"]

    def digest(self) -> str:
        """Hash of weights and buffers, 12 hex digits."""
        found = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:12]


def batch(
    scale: Scale, pairs: int, views: int, length: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images (views, pairs, 3, H, W) uint8 and tokens (views, pairs, length), drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    coarse = scale.size // BLOCK
    shape = (views, pairs, 3, coarse, coarse)
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = blocks.repeat_interleave(BLOCK, dim=3).repeat_interleave(BLOCK, dim=4)

    # Words between the start and the end token.
    start, end = 49406, 49407
    tokens = torch.randint(1, start, (views, pairs, length), generator=generator)
    tokens[..., 0], tokens[..., -1] = start, end
    return images.to(device), tokens.to(device)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
