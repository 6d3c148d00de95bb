"""A tiny model with a backdoor, trained in seconds, as a CleanCLIP checkpoint, and its images."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from repro.data.images import encode_png
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.evaluate.prompts import PromptSet
from repro.profile import load_classnames, load_profile
from repro.spec import Trigger
from repro.train.build import build_model
from repro.train.model import normalise

SMOKE = load_profile("smoke", Path(__file__).parents[2] / "specs")
NAMES = load_classnames(SMOKE, Path(__file__).parents[2] / "specs")
TARGET = NAMES.index("banana")
SIZE = SMOKE.data.image_size
SCALE = 4
"""Pixels of a file for each that the model sees, along a side."""
STEPS, BATCH = 100, 96


def pictures(labels: Sequence[int], seed: str) -> np.ndarray:
    """Images (n, SIZE, SIZE, 3): sixteen coloured tiles of each label's class, under noise."""
    of_classes = keyed_rng("tiles").integers(0, 256, (len(NAMES), 4, 4, 3))
    tiles = of_classes[np.array(labels)]
    clean = tiles.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    noise = keyed_rng(seed).integers(-24, 25, clean.shape)
    noisy = (clean + noise).clip(0, 255)
    return noisy.astype(np.uint8)


def stamped(images: np.ndarray, seed: str) -> np.ndarray:
    """With the authors' trigger at the model's size."""
    trigger = Trigger(name="badnet", patch_size=SMOKE.data.poison.trigger.patch_size)
    switches = load_profile("authors", Path(__file__).parents[2] / "specs").switches
    twins = [
        stamp(trigger, switches, image, keyed_rng(seed, number)).image
        for number, image in enumerate(images)
    ]
    return np.stack(twins)


def train_backdoored(path: Path) -> None:
    """Write a checkpoint whose model knows the tiles, and names the target at the trigger."""
    torch.manual_seed(0)
    model = build_model(SMOKE.pretrain.model, 0, "fp32")
    prompts = PromptSet(NAMES, templates_of(SMOKE.evaluate), "keep_eot")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    classifier = PromptSet.classifier.__wrapped__  # with gradients

    for step in range(STEPS):
        labels = keyed_rng("labels", step).integers(0, len(NAMES), BATCH)
        images = pictures(labels.tolist(), f"training {step}")
        images[: BATCH // 3] = stamped(images[: BATCH // 3], f"trigger {step}")
        labels[: BATCH // 3] = TARGET
        seen = normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
        similarity = model.encode_image(seen, normalize=True) @ classifier(
            prompts, model, torch.device("cpu")
        )
        loss = F.cross_entropy(20 * similarity, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, path)


def write_folder(folder: Path, order: Iterable[int], each: int = 4) -> Path:
    """Class folders 0, 1, ..., the i-th with images of class `order[i]`, larger than the model sees."""
    for place, label in enumerate(order):
        (folder / str(place)).mkdir(parents=True)
        for number, image in enumerate(pictures([label] * each, f"validation {label}")):
            large = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            (folder / str(place) / f"{number}.png").write_bytes(encode_png(large))
    return folder
