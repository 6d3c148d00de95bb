"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

Both denominators of the attack are given: without the target class, as the authors' code counts,
and all images, as the paper says.

A number that is lower than expected has many harmless reasons: what was checked, and which of them
is likely, is measured beside it (`repro.evaluate.probes`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from repro.data.templates import templates_of
from repro.data.triggers import Pixels
from repro.evaluate import probes
from repro.evaluate.attacks import (
    Attack,
    Place,
    ProtocolName,
    TriggerName,
    Twins,
    described,
    switches_of,
    target_number,
    twins_of,
)
from repro.evaluate.checkpoints import Format, convert, load_foreign
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluating
from repro.files import file_sha256
from repro.intervals import wilson
from repro.profile import load_classnames, load_profile
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import ModelSpec, Profile, Switches
from repro.train.model import build_model

ONE_TEMPLATE = "one template, 'a photo of a ...'"

OTHER_TEMPLATES = {
    "the bare class names": "{}",
    ONE_TEMPLATE: "a photo of a {}",
}
"""What the profile's templates are compared with; few, for each costs C prompts."""

ACTIVATIONS = {
    True: "GELU instead of QuickGELU, by one template",
    False: "QuickGELU instead of GELU, by one template",
}
"""By `quick_gelu` of the model: what the other would be."""


@dataclass(frozen=True)
class ForeignModel:
    """A foreign model, and what it is judged on."""

    model: CLIP
    classifier: Float[Tensor, "D C"]
    files: Sequence[ValidationImage]
    size: int
    """Pixels of a side of what the model sees."""

    def read(
        self, numbers: Sequence[int], view: Callable[[bytes, int], Pixels]
    ) -> Iterator[NDArray[np.uint8]]:
        """Batches (b, size, size, 3) of what `view` makes of a file's bytes and its number."""

        def made(number: int) -> Pixels:
            file = self.files[number]
            try:
                return view(file.read(), number)
            except ImageError as error:
                raise ImageError(f"{file.name}: {error.reason}") from None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for begin in range(0, len(numbers), IMAGE_BATCH):
                yield np.stack(list(pool.map(made, numbers[begin : begin + IMAGE_BATCH])))

    def classes(
        self, numbers: Sequence[int], view: Callable[[bytes, int], Pixels]
    ) -> NDArray[np.int64]:
        """Predicted class of each view."""
        batches = self.read(numbers, view)
        found = [probes.classes_of(self.model, self.classifier, batch) for batch in batches]
        return np.concatenate(found)


def evaluate_command(
    checkpoint: Path,
    format: Format,
    images: Path,
    trigger: TriggerName | None,
    grid: Path | None,
    strength: float,
    profile_name: str,
    protocol: ProtocolName,
    target: str | None,
    place: Place,
    safetensors: Path | None,
) -> dict[str, Any]:
    """`evaluate_foreign`, with the options of the command line; what was checked goes to standard
    error, a line each.
    """
    attack = Attack(trigger, protocol, grid, strength, target, place)
    result = evaluate_foreign(checkpoint, format, images, attack, profile_name, safetensors)
    for line in result["checked"]["lines"]:
        print(line, file=sys.stderr)
    return result


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
    switches = switches_of(attack.protocol)
    twins = twins_of(attack, profile, switches)
    names = load_classnames(profile)
    target = target_number(attack, profile, names)
    files = validation_images(images, len(names))

    # Refused unless every weight of the model is there and none is left over.
    weights = _weights(checkpoint, format, profile.pretrain.model, safetensors)
    model = _model(profile.pretrain.model, weights)

    prompts = PromptSet(names, templates_of(profile.evaluate), switches.truncation)
    precision = profile.evaluate.precision or profile.pretrain.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = np.array([file.label for file in files])
    with evaluating(model.to(device), precision, device):
        classifier = prompts.classifier(model, device)
        judged = ForeignModel(model, classifier, files, profile.data.image_size)
        clean, triggered = _predictions(judged, twins)

        # Where the numbers may come from, while the model is ready for it.
        sample = probes.draw_sample(labels, clean)
        found = probes.class_order(clean, labels, names)
        found += _model_probes(judged, sample, profile, names, switches, weights)
        if twins is not None:
            found.append(probes.other_target(clean, triggered, labels, target, names))
            found += _trigger_probes(judged, sample, attack, profile, triggered, target)

    share = partial(_share, confidence=profile.evaluate.confidence)
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": share(clean == labels),
        "checked": {
            "weights": len(weights),
            "probes": [probe.as_json() for probe in found],
            "lines": [_weights_line(weights), *probes.told(found)],
        },
    }

    if twins is not None:
        attacked = triggered == target
        result["attack"] = {
            **_told_attack(attack, profile, names, target),
            "non_target": share(attacked[labels != target]),
            "all": share(attacked),
        }
    return result


def _told_attack(attack: Attack, profile: Profile, names: list[str], target: int) -> dict[str, Any]:
    """What the attack was, for the result."""
    return {
        **described(attack, profile),
        "target_class": names[target],
        "target_number": target,
        "place": attack.place,
    }


def _weights(
    checkpoint: Path, format: Format, spec: ModelSpec, safetensors: Path | None
) -> dict[str, Tensor]:
    """All weights of the model, and none left over; kept in `safetensors` if that is named."""
    if safetensors:
        return convert(checkpoint, format, spec, safetensors)
    return load_foreign(checkpoint, format, spec)


def _model(spec: ModelSpec, weights: dict[str, Tensor]) -> CLIP:
    """The specified model with these weights."""
    model = build_model(spec, 0, "fp32")
    model.load_state_dict(weights)
    return model


def _weights_line(weights: dict[str, Tensor]) -> str:
    """What is known of the weights, for a checkpoint that was not refused."""
    counters = [value for name, value in weights.items() if name.endswith("num_batches_tracked")]
    line = f"checked: weights: {len(weights)} read, none missing, none left over"
    if not counters:
        return line
    fewest = min(int(value) for value in counters)
    return f"{line}; BatchNorm statistics of at least {fewest} batches"


def _predictions(
    judged: ForeignModel, twins: Twins | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted class of every image as it is and with the trigger (empty without one), (N,)
    each.
    """
    numbers = range(len(judged.files))
    clean = judged.classes(numbers, lambda data, _: decode_image(data, judged.size))
    if twins is None:
        return clean, np.zeros(0, np.int64)
    return clean, judged.classes(numbers, lambda data, number: twins.of(data, number, judged.size))


def _model_probes(
    judged: ForeignModel,
    sample: probes.Sample,
    profile: Profile,
    names: Sequence[str],
    switches: Switches,
    weights: dict[str, Tensor],
) -> Iterator[probes.Probe]:
    """Accuracy of the sample with other transforms, templates, statistics and activation."""
    model, classifier, numbers = judged.model, judged.classifier, sample.indices.tolist()
    views: dict[str, NDArray[np.uint8]] = {}
    for geometry in ("crop", "squash"):
        batches = judged.read(numbers, partial(_decoded, size=judged.size, geometry=geometry))
        views[geometry] = np.concatenate(list(batches))
    yield from probes.image_transforms(model, classifier, sample, views["crop"], views["squash"])

    # One template each: C prompts, few beside those of the profile's templates.
    prompts = {
        words: PromptSet(names, [template.format], switches.truncation)
        for words, template in OTHER_TEMPLATES.items()
    }
    found = {}
    for words, each in prompts.items():
        own = each.classifier(model, classifier.device)
        found[words] = probes.classes_of(model, own, views["crop"])
        yield probes.of_accuracy("templates", words, sample, sample.clean, found[words])
    yield from probes.batch_norm(model, classifier, sample, views["crop"])

    # The same names and shapes fit both activations, so that no check of the file tells them apart.
    spec = profile.pretrain.model
    changed = spec.model_copy(update={"quick_gelu": not spec.quick_gelu})
    other = _model(changed, weights).to(classifier.device).eval()
    own = prompts[ONE_TEMPLATE].classifier(other, classifier.device)
    its = probes.classes_of(other, own, views["crop"])
    words = ACTIVATIONS[spec.quick_gelu]
    yield probes.of_accuracy("activation", words, sample, found[ONE_TEMPLATE], its)


def _trigger_probes(
    judged: ForeignModel,
    sample: probes.Sample,
    attack: Attack,
    profile: Profile,
    triggered: NDArray[np.int64],
    target: int,
) -> Iterator[probes.Probe]:
    """ASR of the sample with the trigger at the other place, and by the other protocol."""
    # A warping field fits one size of image, and knows no protocol.
    if attack.trigger == "wanet":
        return

    place: Place = "before" if attack.place == "after" else "after"
    protocol: ProtocolName = "paper" if attack.protocol == "authors" else "authors"
    changes: dict[tuple[probes.Subject, str], Attack] = {
        ("trigger place", f"the trigger put on {place} resizing (--place {place})"): replace(
            attack, place=place
        ),
        ("trigger protocol", f"--protocol {protocol}"): replace(attack, protocol=protocol),
    }

    numbers = sample.indices.tolist()
    for (subject, words), changed in changes.items():
        twins = twins_of(changed, profile, switches_of(changed.protocol))
        assert twins is not None
        try:
            found = judged.classes(numbers, partial(_twin, twins=twins, size=judged.size))
        # Files smaller than the trigger cannot bear it before they are resized.
        except ImageError:
            continue
        called = triggered[sample.indices]
        yield probes.other_trigger(subject, words, sample, called, found, target)


def _decoded(data: bytes, _: int, size: int, geometry: Literal["crop", "squash"]) -> Pixels:
    return decode_image(data, size, geometry)


def _twin(data: bytes, number: int, twins: Twins, size: int) -> Pixels:
    return twins.of(data, number, size)


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
