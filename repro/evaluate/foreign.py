"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol `authors`: wrapped noise
around the channel means, on an image squashed to a square); under the paper's wording it would be another trigger, and a
backdoor would seem to be missing. Both denominators of the attack are given: without the target class, as the authors'
code counts, and all images, as the paper says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP

from repro.data.images import ImageError, decode_image
from repro.data.keyed import keyed_rng
from repro.data.shards import hash_file
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.evaluate.checkpoints import Format, convert, load_foreign
from repro.evaluate.zero_shot import IMAGE_BATCH, PromptSet, predict
from repro.intervals import wilson
from repro.profile import SPECS, check, load_classnames, load_profile, read_yaml
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import Switches, Trigger
from repro.train.model import build_model


def evaluate_foreign(
    checkpoint: Path,
    format: Format,
    images: Path,
    trigger: Literal["badnet", "blended", "sig", "wanet", "yellow"] | None,
    profile_name: str = "paper",
    protocol: Literal["authors", "paper"] = "authors",
    safetensors: Path | None = None,
) -> dict[str, Any]:
    """Evaluate `checkpoint` on the validation images at `images`; the result is ready for JSON.

    The profile gives model, class names, templates, target class and patch size; the protocol gives the switches; the
    weights are left in the file `safetensors`, if one is named, for readers that need not trust a pickle. Raises
    CheckpointError for a file that is not of the model, SpecError for images that are not the whole task, ImageError for
    one that cannot be decoded.
    """
    profile = load_profile(profile_name)
    path = SPECS / "protocols" / f"{protocol}.yaml"
    switches = check(Switches, read_yaml(path), path)
    names, target = load_classnames(profile), profile.data.poison.target_class
    files = validation_images(images, len(names))
    spec = profile.pretrain.model
    model = build_model(spec, 0, "fp32")
    model.load_state_dict(
        convert(checkpoint, format, spec, safetensors)
        if safetensors
        else load_foreign(checkpoint, format, spec)
    )
    settings = (
        None
        if trigger is None
        else Trigger(name=trigger, patch_size=profile.data.poison.trigger.patch_size)
    )
    prompts = PromptSet(names, templates_of(profile.evaluate), switches.truncation)
    clean, triggered = _predictions(
        model,
        prompts,
        files,
        profile.data.image_size,
        settings,
        switches,
        profile.evaluate.trigger_seed,
    )
    labels = np.array([file.label for file in files])
    share = partial(_share, confidence=profile.evaluate.confidence)
    result = {
        "checkpoint": checkpoint.name,
        "sha256": hash_file(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": share(clean == labels),
    }
    if settings is not None:
        attacked = triggered == names.index(target)
        result["attack"] = {
            "trigger": settings.model_dump(),
            "protocol": protocol,
            "target_class": target,
            "non_target": share(attacked[labels != names.index(target)]),
            "all": share(attacked),
        }
    return result


def _predictions(
    model: CLIP,
    prompts: PromptSet,
    files: Sequence[ValidationImage],
    size: int,
    trigger: Trigger | None,
    switches: Switches,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted class of every image as it is and with the trigger (empty without one), (N,) each; one read for both."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    classifier = prompts.classifier(model, device)

    def pixels(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        data = files[index].read()
        try:
            image = decode_image(data, size)
            if trigger is None:
                return image, None
            base = (
                decode_image(data, size, "squash")
                if switches.trigger_geometry == "squash"
                else image
            )
        except ImageError as error:
            raise ImageError(f"{files[index].name}: {error.reason}") from None
        return image, stamp(trigger, switches, base, keyed_rng("evaluation", seed, 0, index)).image

    clean, triggered = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(files), IMAGE_BATCH):
            images, stamped = zip(
                *pool.map(pixels, range(begin, min(begin + IMAGE_BATCH, len(files)))), strict=True
            )
            clean.append(predict(model, np.stack(images), classifier, device))
            if trigger is not None:
                triggered.append(predict(model, np.stack(stamped), classifier, device))
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
