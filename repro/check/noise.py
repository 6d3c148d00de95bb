"""What a check says, and the models, batches and stores that the checks work on: blocks of colour
with random captions.
"""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor, nn

from repro.data.shards import ShardWriter, write_store
from repro.names import Objective
from repro.profile import load_classnames, load_profile, pretrain_runs
from repro.runs.run import Run, identify
from repro.spec import Precision, RunSpec
from repro.train.model import PairEncoder, build_model, build_optimizer
from repro.train.step import training_step
from repro.unchanged import code_digest

BLOCK = 8
"""Side of the blocks of the images, pixels: white noise would be an image like no other."""
WORDS = ("red", "boat", "harbour", "old", "stone", "water", "crane", "small", "night", "bridge")
CLASSES, IMAGES_PER_CLASS = 20, 8
START, END = 49406, 49407
"""Tokens at the ends of a caption."""


class Check(NamedTuple):
    """What was compared, what came out, and whether that is right."""

    name: str
    text: str
    passed: bool | None = None
    """None for a number without a bound, and for what could not be checked."""

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "INFO"}[self.passed]
        return f"{verdict} {self.name}: {self.text}"


@dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    profile: str
    fast: str
    """Profile of the same model in the fastest arithmetic."""
    pairs: int
    """Pairs of a step, in one BatchNorm group."""
    length: int
    """Tokens of the longest captions."""
    steps: int
    """Timed steps."""
    stored: int
    """Pairs of the worker's store."""
    epochs: int

    def spec(self, objective: Objective = "mmcl", precision: Precision = "fp32") -> RunSpec:
        """The pre-training by an objective, in another precision."""
        run = pretrain_runs(load_profile(self.profile), "cc6m", objective)[0]
        return run.model_copy(update={"precision": precision, "deterministic": True})


FULL = Scale("paper", "paper_lean", pairs=256, length=77, steps=12, stored=2048, epochs=8)
TOY = Scale("smoke", "smoke", pairs=16, length=24, steps=2, stored=96, epochs=4)


class Trainee:
    """A model in training, with its optimizer and encoder."""

    def __init__(self, spec: RunSpec, device: torch.device, seed: int = 0, groups: int = 1) -> None:
        self.spec, self.device = spec, device
        self.model: CLIP = build_model(spec.model, seed, "fp32").to(device)
        self.model.train()
        # The last gain of each block is 0 at the start and would hide the block's gradients.
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        self.optimizer = build_optimizer(
            self.model, spec.optimizer, spec.switches.weight_decay_rule
        )
        self.encoder: nn.Module = PairEncoder(self.model, groups)

    def step(self, images: Tensor, tokens: Tensor) -> Tensor:
        """One step; the loss before it."""
        return training_step(
            self.encoder, self.model, self.optimizer, images, tokens, self.spec, 1e-4
        )["loss"]

    def pairs_per_second(self, data: tuple[Tensor, Tensor], steps: int) -> float:
        """Speed of so many steps on one batch, after three others."""
        loss = torch.zeros(())
        for number in range(3 + steps):
            if number == 3:
                # Reading a loss waits for the device.
                float(loss)
                begun = time.monotonic()
            loss = self.step(*data)
        float(loss)
        return steps * data[0].shape[1] / (time.monotonic() - begun)


def batch(
    spec: RunSpec, pairs: int, length: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images (V, pairs, 3, H, W) uint8 and tokens (V, pairs, length), drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    side, views = spec.model.vision.image_size // BLOCK, spec.num_views
    shape = (views, pairs, 3, side, side)
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = blocks.repeat_interleave(BLOCK, dim=3).repeat_interleave(BLOCK, dim=4)
    tokens = torch.randint(1, START, (views, pairs, length), generator=generator)
    tokens[..., 0], tokens[..., -1] = START, END
    return images.to(device), tokens.to(device)


def noise_run(scale: Scale, folder: Path, precision: Precision = "tf32") -> Run:
    """A pre-training by MMCL + SSL on JPEG files of noise, which are written into `folder`."""
    spec = scale.spec("mmcl_ssl", precision)
    pairs = scale.pairs // spec.num_views
    sizes = {"global_batch_size": pairs, "norm_batch_size": pairs}
    changes = {"epochs": scale.epochs, "warmup_steps": 2, **sizes}
    schedule = spec.schedule.model_copy(update=changes)
    every = {"evaluations_per_epoch": 0.5, "evaluate_every_steps": None, "model_age": "last"}
    spec = spec.model_copy(update={"schedule": schedule, **every})

    others = [n for n in load_classnames(load_profile(scale.profile)) if n != spec.target_class]
    names = [spec.target_class, *others[: CLASSES - 1]]
    rng = np.random.default_rng(0)
    labels = [-1] * scale.stored, [*range(CLASSES)] * IMAGES_PER_CLASS
    for store, rows in zip(("pairs", "evaluation"), labels, strict=True):
        (folder / store).mkdir(parents=True)
        writer = ShardWriter(folder / store)
        for label in rows:
            caption = "" if label >= 0 else " ".join(rng.choice(WORDS, rng.integers(3, 9)))
            writer.add(_jpeg(rng, spec.model.vision.image_size), "jpg", caption, label)
        write_store(folder / store, *writer.close())
    (folder / "evaluation/classnames.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "synonyms.json").write_text(json.dumps({"lemmas": {}, "exceptions": {}}))
    inputs = {name: folder / name for name in ("pairs", "evaluation")}
    return identify(spec, inputs | {"synonyms": folder / "synonyms.json"}, code_digest())


def _jpeg(rng: np.random.Generator, side: int) -> bytes:
    """A JPEG as smooth as a photograph, and so as large."""
    coarse = rng.integers(0, 256, (side // BLOCK, side // BLOCK, 3), np.uint8)
    out = io.BytesIO()
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    image.save(out, "JPEG", quality=95)
    return out.getvalue()
