"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol
`authors`: wrapped noise around the channel means, on an image squashed to a square); under the
paper's wording it would be another trigger, and a backdoor would seem to be missing. Both
denominators of the attack are given: without the target class, as the authors' code counts, and all
images, as the paper says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor

from repro.data.images import ImageError, decode_image
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.data.triggers import WANET_STRENGTH, Pixels, stamp, wanet
from repro.evaluate.checkpoints import Format, convert, load_foreign
from repro.evaluate.grids import load_grid
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluating, predict
from repro.files import file_sha256
from repro.intervals import wilson
from repro.profile import SPECS, check, load_classnames, load_profile, read_yaml
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import Profile, SpecError, Switches, Trigger
from repro.train.model import build_model

NO_GRID = (
    "warning: --trigger wanet without --grid warps by this project's own field; a model that was "
    "trained with another one will seem to have no backdoor"
)

MAX_STRENGTH = 10
"""Largest factor on a warping field: 5 pixels on average."""

TriggerName = Literal["badnet", "blended", "sig", "wanet", "yellow"]


@dataclass(frozen=True)
class Attack:
    """The trigger that a foreign model is tried with, and how images and texts are prepared."""

    trigger: TriggerName | None
    """None for accuracy alone."""
    protocol: Literal["authors", "paper"] = "authors"
    grid: Path | None = None
    """File with the warping field that a `wanet` model was trained with; see `load_grid`."""
    strength: float = WANET_STRENGTH
    """Factor on that field."""


@dataclass(frozen=True)
class Twins:
    """How an image becomes its triggered twin."""

    geometry: Literal["crop", "squash"]
    """What the trigger goes on."""
    stamp: Callable[[Pixels, int], Pixels]
    """(image (H, W, 3), its number) to the twin."""


def evaluate_command(
    checkpoint: Path,
    format: Format,
    images: Path,
    trigger: TriggerName | None,
    grid: Path | None,
    strength: float,
    profile_name: str,
    protocol: Literal["authors", "paper"],
    safetensors: Path | None,
) -> dict[str, Any]:
    """`evaluate_foreign`, with the options of the command line."""
    attack = Attack(trigger, protocol, grid, strength)
    return evaluate_foreign(checkpoint, format, images, attack, profile_name, safetensors)


def evaluate_foreign(
    checkpoint: Path,
    format: Format,
    images: Path,
    attack: Attack,
    profile_name: str = "paper",
    safetensors: Path | None = None,
) -> dict[str, Any]:
    """Evaluate `checkpoint` on the validation images at `images`; the result is ready for JSON.

    The profile gives model, class names, templates, target class and patch size, the attack's
    protocol the switches; the weights are left in the file `safetensors`, if one is named, for
    readers that need not trust a pickle. Raises CheckpointError for a file that is not of the
    model, SpecError for images that are not the whole task or a grid that does not fit, ImageError
    for an image that cannot be decoded.
    """
    profile = load_profile(profile_name)
    path = SPECS / "protocols" / f"{attack.protocol}.yaml"
    switches = check(Switches, read_yaml(path), path)
    twins = _twins(attack, profile, switches)
    names, target = load_classnames(profile), profile.data.poison.target_class
    files = validation_images(images, len(names))

    spec = profile.pretrain.model
    model = build_model(spec, 0, "fp32")
    if safetensors:
        model.load_state_dict(convert(checkpoint, format, spec, safetensors))
    else:
        model.load_state_dict(load_foreign(checkpoint, format, spec))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    prompts = PromptSet(names, templates_of(profile.evaluate), switches.truncation)
    precision = profile.evaluate.precision or profile.pretrain.precision
    with evaluating(model, precision, device):
        classifier = prompts.classifier(model, device)
        clean, triggered = _predictions(model, classifier, files, profile.data.image_size, twins)

    labels = np.array([file.label for file in files])
    share = partial(_share, confidence=profile.evaluate.confidence)
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": share(clean == labels),
    }

    if twins is not None:
        attacked = triggered == names.index(target)
        result["attack"] = {
            **_description(attack, profile),
            "target_class": target,
            "non_target": share(attacked[labels != names.index(target)]),
            "all": share(attacked),
        }
    return result


def _twins(attack: Attack, profile: Profile, switches: Switches) -> Twins | None:
    """What stamps the attack's trigger; a `wanet` whose field is only guessed is warned of."""
    if attack.trigger != "wanet" and (attack.grid or attack.strength != WANET_STRENGTH):
        raise SpecError("--grid, --strength: allowed with --trigger wanet only")
    if not 0 < attack.strength <= MAX_STRENGTH:
        raise SpecError(
            f"--strength: {attack.strength} (allowed: above 0 and at most {MAX_STRENGTH})"
        )
    if attack.trigger is None:
        return None

    if attack.trigger == "wanet":
        if attack.grid is None:
            print(NO_GRID, file=sys.stderr)
        size = profile.data.image_size
        field = None if attack.grid is None else load_grid(attack.grid, size)
        return Twins(
            switches.trigger_geometry, lambda image, _: wanet(image, attack.strength, field)
        )

    trigger = Trigger(name=attack.trigger, patch_size=profile.data.poison.trigger.patch_size)
    seed = profile.evaluate.trigger_seed

    def twin(image: Pixels, number: int) -> Pixels:
        return stamp(trigger, switches, image, keyed_rng("evaluation", seed, 0, number)).image

    return Twins(switches.trigger_geometry, twin)


def _description(attack: Attack, profile: Profile) -> dict[str, Any]:
    """The attack as the result states it."""
    trigger: dict[str, Any] = {
        "name": attack.trigger,
        "patch_size": profile.data.poison.trigger.patch_size,
    }
    if attack.trigger == "wanet":
        trigger["strength"] = attack.strength
        trigger["grid_sha256"] = None if attack.grid is None else file_sha256(attack.grid)
    return {"trigger": trigger, "protocol": attack.protocol}


def _predictions(
    model: CLIP,
    classifier: Float[Tensor, "D C"],
    files: Sequence[ValidationImage],
    size: int,
    twins: Twins | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted class of every image as it is and with the trigger (empty without one), (N,)
    each.
    """

    def pixels(index: int) -> tuple[Pixels, Pixels | None]:
        """One read for both."""
        data = files[index].read()
        try:
            image = decode_image(data, size)
            if twins is None:
                return image, None
            squash = twins.geometry == "squash"
            base = decode_image(data, size, "squash") if squash else image
        except ImageError as error:
            raise ImageError(f"{files[index].name}: {error.reason}") from None
        return image, twins.stamp(base, index)

    def classes(images: Sequence[Pixels]) -> NDArray[np.int64]:
        on_device = torch.from_numpy(np.stack(images)).to(classifier.device)
        found: NDArray[np.int64] = predict(model, on_device, classifier).cpu().numpy()
        return found

    clean, triggered = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(files), IMAGE_BATCH):
            batch = range(begin, min(begin + IMAGE_BATCH, len(files)))
            images, stamped = zip(*pool.map(pixels, batch), strict=True)
            clean.append(classes(images))
            if twins is not None:
                triggered.append(classes(stamped))
    return np.concatenate(clean), np.concatenate(triggered)


def _share(bits: NDArray[np.bool_], confidence: float) -> dict[str, Any]:
    """Counts, fraction and Wilson interval."""
    count, total = int(bits.sum()), len(bits)
    return {
        "count": count,
        "total": total,
        "fraction": count / total,
        "interval": list(wilson(count, total, confidence)),
        "confidence": confidence,
    }
