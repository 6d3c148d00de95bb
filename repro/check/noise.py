"""What a check says, and the models, batches and stores that the checks work on: blocks of colour
with random captions.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor, nn

from repro.data.index import NO_LABEL
from repro.data.shards import ShardWriter, write_store
from repro.edits import code_digest
from repro.names import Objective
from repro.plan.assumptions import DeviceName
from repro.profile import load_profile, pretrain_runs
from repro.runs.run import Run, identify
from repro.spec import Precision, RunSpec
from repro.train.build import build_model, build_optimizer
from repro.train.model import PairEncoder
from repro.train.step import training_step

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


class Scale(NamedTuple):
    """On what the checks run, and how large they are."""

    device: torch.device
    profile: str
    """Whose model is trained."""
    fast: str
    """Profile that is trained in the fastest arithmetic."""
    pairs: int
    """Pairs of a step, in one BatchNorm group."""
    length: int
    """Tokens of the longest captions."""
    steps: int
    """Timed steps."""
    stored: int
    """Pairs of the worker's store."""
    epochs: int
    batches: int
    """Of captions of random lengths, for the compiled encoder."""

    @property
    def gpu(self) -> bool:
        """Whether the bounds that hold for a GPU apply."""
        return self.device.type == "cuda"

    def bound(self, good: bool) -> bool | None:
        """The verdict of a bound that only a GPU has to keep."""
        return good if self.gpu else None

    def spec(self, objective: Objective = "mmcl", precision: Precision = "fp32") -> RunSpec:
        """The pre-training by an objective, in another precision."""
        spec = repeatable(self.profile, objective)
        return spec.model_copy(update={"precision": precision})

    def lean(self) -> RunSpec:
        """The pre-training of `paper_lean`, with the model at hand."""
        spec = pretrain_runs(load_profile("paper_lean"), "cc6m", "mmcl")[0]
        return spec.model_copy(update={"model": self.spec().model})


def repeatable(profile: str, objective: Objective) -> RunSpec:
    """The pre-training of a profile by an objective, with the same bits at every repetition."""
    run = pretrain_runs(load_profile(profile), "cc6m", objective)[0]
    return run.model_copy(update={"deterministic": True})


CPU = torch.device("cpu")
FULL = Scale(torch.device("cuda", 0), "paper", "paper_lean", 256, 77, 12, 2048, 8, 30)
TOY = Scale(CPU, "smoke", "smoke", 16, 24, 2, 96, 8, 30)
WIDE = Scale(CPU, "paper", "paper_lean", 4, 77, 2, 96, 8, 4)
"""The model of the paper on processors: minutes, in a test."""
SCALES = {"full": FULL, "toy": TOY, "wide": WIDE}
"""By the names under which ranks are told of them."""


def known_device(scale: Scale) -> DeviceName | None:
    """The GPU here, if specs/plan.yaml has its rates."""
    if not scale.gpu:
        return None
    name = torch.cuda.get_device_name(scale.device).lower()
    if "a100" in name:
        return "a100"
    # An H200 has the arithmetic of an H100.
    return "h100" if "h100" in name or "h200" in name else None


class Trainee:
    """A model in training, with its optimizer and encoder."""

    def __init__(self, spec: RunSpec, device: torch.device, seed: int = 0, groups: int = 1) -> None:
        self.spec = spec
        self.model: CLIP = build_model(spec.model, seed, "fp32").to(device)
        self.model.train()
        # The last gain of each block is 0 at the start and would hide the block's gradients.
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        rule = spec.switches.weight_decay_rule
        self.optimizer = build_optimizer(self.model, spec.optimizer, rule)
        self.encoder: nn.Module = PairEncoder(self.model, groups)

    def step(self, images: Tensor, tokens: Tensor, rate: float = 1e-4) -> Tensor:
        """One step; the loss before it."""
        losses = training_step(
            self.encoder, self.model, self.optimizer, images, tokens, self.spec, rate
        )
        return losses["loss"]

    def pairs_per_second(self, data: tuple[Tensor, Tensor], steps: int) -> float:
        """Speed of so many steps on one batch, after three others."""
        for _ in range(3):
            loss = self.step(*data)
        # Reading a loss waits for the device.
        float(loss)
        begun = time.monotonic()
        for _ in range(steps):
            loss = self.step(*data)
        float(loss)
        seconds = time.monotonic() - begun
        pairs = data[0].shape[1]
        return steps * pairs / seconds


def batch(
    spec: RunSpec, pairs: int, length: int, seed: int, device: torch.device, shortest: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (V, pairs, 3, H, W) uint8 and, on the host, tokens (V, pairs, length); with `shortest`
    captions have as many tokens or more, by chance, and the first of all has all.
    """
    generator = torch.Generator().manual_seed(seed)
    views = spec.num_views
    side = spec.model.vision.image_size // BLOCK
    shape = (views, pairs, 3, side, side)
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = blocks.repeat_interleave(BLOCK, dim=3).repeat_interleave(BLOCK, dim=4)

    tokens = torch.randint(1, START, (views, pairs, length), generator=generator)
    tokens[..., 0] = START
    ends = torch.full((views, pairs, 1), length - 1)
    if shortest:
        ends.random_(shortest - 1, length, generator=generator)
        ends[0, 0] = length - 1
    tokens.scatter_(2, ends, END)
    return images.to(device), tokens


def noise_run(
    scale: Scale, folder: Path, profile: str, objective: Objective, groups: int = 1
) -> Run:
    """A pre-training on JPEG files of noise, which are written into `folder`, in batches of so many
    BatchNorm groups.
    """
    spec = repeatable(profile, objective)
    pairs = scale.pairs // spec.num_views
    sizes = {"global_batch_size": pairs, "norm_batch_size": pairs // groups}
    schedule = {"epochs": scale.epochs, "warmup_steps": 2, **sizes}
    changes = {
        "schedule": spec.schedule.model_copy(update=schedule),
        "evaluations_per_epoch": 0.5,
        "evaluate_every_steps": None,
        "model_age": "last",
    }
    spec = spec.model_copy(update=changes)

    inputs = {
        "pairs": folder / "pairs",
        "evaluation": folder / "evaluation",
        "synonyms": folder / "synonyms.json",
    }
    side = spec.model.vision.image_size
    rng = np.random.default_rng(0)
    _write_noise(inputs["pairs"], [NO_LABEL] * scale.stored, side, rng)
    _write_noise(inputs["evaluation"], [*range(CLASSES)] * IMAGES_PER_CLASS, side, rng)
    names = [spec.target_class, *(f"class {number}" for number in range(1, CLASSES))]
    text = "".join(f"{name}\n" for name in names)
    (inputs["evaluation"] / "classnames.txt").write_text(text)
    inputs["synonyms"].write_text('{"lemmas": {}, "exceptions": {}}')
    return identify(spec, inputs, code_digest())


def _write_noise(folder: Path, labels: Sequence[int], side: int, rng: np.random.Generator) -> None:
    """A store of an image for each label; those without a label have captions."""
    folder.mkdir(parents=True)
    writer = ShardWriter(folder)
    for label in labels:
        caption = ""
        if label == NO_LABEL:
            caption = " ".join(rng.choice(WORDS, rng.integers(3, 9)))
        writer.add(_jpeg(rng, side), "jpg", caption, label)
    write_store(folder, *writer.close())


def _jpeg(rng: np.random.Generator, side: int) -> bytes:
    """A JPEG as smooth as a photograph, and so as large."""
    blocks = side // BLOCK
    coarse = rng.integers(0, 256, (blocks, blocks, 3), np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()
