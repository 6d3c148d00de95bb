"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

A low number has many harmless reasons, so the likely ones are measured beside it: one thing at a
time is done otherwise than the call did it, on a sample of the images, and named as likely cause
where the share of right or attacked images is higher beyond chance.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol
`authors`: wrapped noise around the channel means, on an image squashed to a square). No check of a
file can tell RN50 with GELU from RN50 with QuickGELU, which OpenAI, CleanCLIP and the authors
trained: names and shapes are the same, so a probe compares the two.

Shapes: N = evaluation images, n = those of the sample, C = classes, D = embedding width.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from repro.data.images import ImageError, decode_image
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.data.triggers import WANET_STRENGTH, stamp, wanet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluating, predict
from repro.files import file_sha256
from repro.intervals import wilson
from repro.names import TriggerName
from repro.profile import load_classnames, load_profile
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import ModelSpec, Profile, SpecError, Switches, Trigger
from repro.train.model import build_model

Format = Literal["cleanclip", "open_clip"]
Bits = NDArray[np.bool_]
Classes = NDArray[np.int64]
"""A class for each image, (N,) or (n,)."""
View = Callable[[bytes, int], NDArray[Any]]
"""(image file, its number) to what the model sees, (H, W, 3), 0..255."""

SAMPLE = 1000
"""Images of a probe."""
CERTAINTY = 0.999
"""Level of the two intervals that must lie apart: of a dozen probes none shall be named by
chance."""
MOST = 0.5
"""Share of triggered images that one class must get to pass for the target of an attack."""
NO_CAUSE = (
    "no cause of a low number among these; what no check sees: other class names, a trigger of "
    "another kind or size, a model that was never poisoned, or was cleaned"
)


class CheckpointError(ValueError):
    """A checkpoint that is not used; the message names the file and what is wrong with it."""


class _Ignored:
    """Stands for a NumPy scalar in CleanCLIP's optimizer state, so that no NumPy code runs."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# torch's list of safe globals takes pairs of object and name; NumPy moved `core` to `_core` in 2.0.
STAND_INS: list[Any] = [
    (_Ignored, name)
    for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


def load_foreign(path: Path, format: Format, spec: ModelSpec) -> CLIP:
    """The model of a foreign checkpoint, in float32 on the CPU.

    `cleanclip` is a dict with `state_dict`; `open_clip` is that, the state dict itself, or a
    `.safetensors` file. A prefix `module.` is taken off, half and double precision are converted.
    A pickle is read by torch's `weights_only` unpickler, which runs no code of the file.
    CheckpointError for all else, and for weights that are not those of the model.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if format == "open_clip" and path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(STAND_INS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    # The unpickler raises whatever a damaged file makes it meet.
    except Exception as error:
        problem = f"cannot be read as weights: {str(error).partition(chr(10))[0]}"
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"refers to {code[1]}, which is code (allowed: tensors, containers, numbers)"
        raise CheckpointError(f"{path}: {problem}") from None

    bare = content if format == "open_clip" else None
    state = content.get("state_dict", bare) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: holds no state_dict (format {format})")
    weights = {str(name).removeprefix("module."): value for name, value in state.items()}

    # torch would turn whole or complex numbers into float32 without a word.
    model = build_model(spec, 0, "fp32")
    kinds = {name: value.is_floating_point() for name, value in model.state_dict().items()}
    for name, value in weights.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not dense or value.is_floating_point() != kinds.get(name, value.is_floating_point()):
            raise CheckpointError(f"{path}: {name}: not a dense tensor of the model's kind")
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name}: not all values are finite")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # names what is missing, unknown, or of another shape
        problems = shorten(str(error), 600)
        raise CheckpointError(f"{path}: not the specified model: {problems}") from None
    return model


@dataclass(frozen=True)
class Attack:
    """The trigger that a foreign model is tried with, and how images and texts are prepared."""

    trigger: TriggerName | None
    """None for accuracy alone."""
    protocol: Literal["authors", "paper"] = "authors"
    grid: Path | None = None
    """`.npy` file (H, W, 2) or (1, H, W, 2) with the field that a `wanet` model was trained with:
    displacement to the right, then down, of mean absolute value 1."""
    strength: float = WANET_STRENGTH
    """Factor on that field."""
    target: str | None = None
    """Name or number of the class that the attack is to evoke; without it, the profile's."""

    def __post_init__(self) -> None:
        """SpecError for options that do not go together."""
        if self.trigger != "wanet" and (self.grid or self.strength != WANET_STRENGTH):
            raise SpecError("--grid, --strength: allowed with --trigger wanet only")
        if self.trigger is None and self.target is not None:
            raise SpecError("--target: allowed with --trigger only")

    @property
    def switches(self) -> Switches:
        """The switches of the protocol, without the departures of any profile."""
        return load_profile(self.protocol).switches

    def target_number(self, profile: Profile, names: Sequence[str]) -> int:
        """Number of the class that the attack is to evoke."""
        name = self.target or profile.data.poison.target_class
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        raise SpecError(
            f"--target: {name!r} (allowed: a class name of the profile, or 0 to {len(names) - 1})"
        )

    def twin(self, profile: Profile) -> View:
        """What makes the triggered twin of an image file."""
        assert self.trigger is not None
        size, switches, seed = profile.data.image_size, self.switches, profile.evaluate.trigger_seed
        trigger = Trigger(name=self.trigger, patch_size=profile.data.poison.trigger.patch_size)
        field = None if self.grid is None else _load_grid(self.grid, size)
        if self.trigger == "wanet" and field is None:
            print("warning: wanet without --grid warps by this project's field", file=sys.stderr)

        def view(data: bytes, number: int) -> NDArray[Any]:
            image = decode_image(data, size, switches.trigger_geometry)
            if self.trigger == "wanet":
                return wanet(image, self.strength, field)
            return stamp(trigger, switches, image, keyed_rng("evaluation", seed, 0, number)).image

        return view


def _load_grid(path: Path, size: int) -> NDArray[np.float64]:
    """The field of a WaNet model, (2, H, W), as `wanet` takes it: down, then to the right."""
    try:
        field = np.load(path, allow_pickle=False).astype(np.float64).reshape(size, size, 2)
    except (OSError, ValueError, EOFError) as error:
        raise SpecError(
            f"--grid: {path}: {error} (allowed: a .npy file of shape ({size}, {size}, 2))"
        ) from None
    return np.stack([field[..., 1], field[..., 0]])


def probe(
    subject: str, otherwise: str, measure: str, called: Bits, changed: Bits, least: float = 0.0
) -> dict[str, Any]:
    """One thing done otherwise, and what that changes; shares in [0, 1].

    `called` and `changed` say for each image whether it was right, or attacked. A likely cause is
    what brings, beyond chance, what the call misses, and at least the share `least`.
    """
    _, high = wilson(int(called.sum()), len(called), CERTAINTY)
    low, _ = wilson(int(changed.sum()), len(changed), CERTAINTY)
    return {
        "subject": subject,
        "otherwise": otherwise,
        "measure": measure,
        "as_called": float(called.mean()),
        "changed": float(changed.mean()),
        "images": len(changed),
        "likely_cause": low > high and float(changed.mean()) >= least,
    }


@dataclass(frozen=True)
class Judged:
    """A foreign model and the task that it is judged on."""

    model: CLIP
    classifier: Float[Tensor, "D C"]
    files: Sequence[ValidationImage]
    profile: Profile
    names: Sequence[str]
    attack: Attack

    def plain(self, data: bytes, _: int) -> NDArray[Any]:
        """The image without a trigger."""
        return decode_image(data, self.profile.data.image_size)

    def classes(
        self,
        view: View | None = None,
        numbers: Sequence[int] | None = None,
        classifier: Tensor | None = None,
        model: CLIP | None = None,
    ) -> Classes:
        """Predicted classes of some images, or of all; by default as the call has it."""
        view, numbers = view or self.plain, numbers or range(len(self.files))
        weights = self.classifier if classifier is None else classifier

        def made(number: int) -> NDArray[Any]:
            file = self.files[number]
            try:
                return view(file.read(), number)
            except ImageError as error:
                raise ImageError(f"{file.name}: {error.reason}") from None

        classes = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for begin in range(0, len(numbers), IMAGE_BATCH):
                images = np.stack(list(pool.map(made, numbers[begin : begin + IMAGE_BATCH])))
                batch = torch.from_numpy(images).to(weights.device)
                classes.append(predict(model or self.model, batch, weights).cpu().numpy())
        return np.concatenate(classes)

    def class_order(self, labels: Classes, clean: Classes) -> Iterator[dict[str, Any]]:
        """Accuracy under other orders of the classes: those of common mistakes, and whichever fits
        half of the images, measured on the others. `labels` ascend.
        """
        right, number = clean == labels, np.arange(len(self.names))
        shares = {}
        for words, order in (
            ("each label one higher or lower", np.roll(number, 1)),
            ("the classes in the order of their names", np.argsort(np.char.lower(self.names))),
            ("the classes in the order 0, 1, 10, 100", np.argsort(number.astype(str))),
        ):
            # The one or the other of labels and names may be in that order.
            ways = [clean == order[labels], clean == np.argsort(order)[labels]]
            shares[words] = max(ways, key=np.count_nonzero)
        best = max(shares, key=lambda words: np.count_nonzero(shares[words]))
        yield probe("class order", best, "accuracy", right, shares[best])

        # Every second image of each class.
        held = (np.arange(len(labels)) - np.searchsorted(labels, labels)) % 2 == 1
        if held.any():
            confusion = np.zeros((len(number), len(number)), np.int64)
            np.add.at(confusion, (labels[~held], clean[~held]), 1)
            _, order = linear_sum_assignment(confusion, maximize=True)
            words = "the order that fits half of the images best, on the others"
            changed = clean[held] == order[labels[held]]
            yield probe("class order", words, "accuracy", right[held], changed)

    def other_ways(self, prompts: PromptSet) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Subject, words and arguments of `classes` for other transforms, templates, statistics and
        activation.
        """
        size, subject = self.profile.data.image_size, "image transform"
        other: dict[str, Any] = {"view": lambda data, _: decode_image(data, size, "squash")}
        yield subject, "images squashed to a square", other
        other = {"view": lambda *file: self.plain(*file)[..., ::-1]}
        yield subject, "channels in the order blue, green, red", other
        for words, mean, deviation in (
            ("ImageNet's mean and deviation", IMAGENET_MEAN, IMAGENET_STD),
            ("pixels from -1 to 1", (0.5,) * 3, (0.5,) * 3),
            ("pixels from 0 to 1", (0.0,) * 3, (1.0,) * 3),
        ):
            # Of these pixels CLIP's normalisation makes what this one makes of the image's.
            factor = np.divide(OPENAI_DATASET_STD, deviation, dtype=np.float32)
            shift = (255 * (OPENAI_DATASET_MEAN - factor * mean)).astype(np.float32)
            other = {"view": lambda *file, f=factor, s=shift: self.plain(*file) * f + s}
            yield subject, words, other

        device, truncation = self.classifier.device, self.attack.switches.truncation
        for template in ("{}", "a photo of a {}"):
            few = PromptSet(self.names, [template.format], truncation)
            words = f"the one template {template!r}"
            yield "templates", words, {"classifier": few.classifier(self.model, device)}

        own = copy.deepcopy(self.model)
        for layer in own.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.training, layer.track_running_stats = True, False
        words = "the images' own statistics instead of the stored ones"
        yield "BatchNorm statistics", words, {"model": own}

        spec = self.profile.pretrain.model
        gelu = build_model(spec.model_copy(update={"quick_gelu": not spec.quick_gelu}), 0, "fp32")
        gelu.load_state_dict(self.model.state_dict())
        gelu.to(device).eval()
        words = "GELU instead of QuickGELU" if spec.quick_gelu else "QuickGELU instead of GELU"
        other = {"model": gelu, "classifier": prompts.classifier(gelu, device)}
        yield "activation", words, other

    def another_target(
        self, labels: Classes, clean: Classes, triggered: Classes, target: int
    ) -> dict[str, Any]:
        """ASR for the class that most triggered images go to, of the others."""
        counts = np.bincount(triggered, minlength=len(self.names))
        counts[target] = -1
        most = int(counts.argmax())
        # The images that go there anyway say nothing of the trigger.
        moved = ((triggered == most) & (clean != most))[labels != most]
        called = (triggered == target)[labels != target]
        words = f"the target {self.names[most]!r} (--target {most})"
        return probe("target", words, "ASR", called, moved, MOST)


def evaluate_foreign(
    checkpoint: Path,
    format: Format,
    images: Path,
    attack: Attack,
    profile_name: str = "paper",
) -> dict[str, Any]:
    """Evaluate `checkpoint` on the validation images at `images`; the result is ready for JSON.

    The profile gives model, class names, templates, target class and patch size, the attack's
    protocol the switches. The attack success rate is given without the target class, as the
    authors' code counts, and over all images, as the paper says. Raises CheckpointError for a file
    that is not of the model, SpecError for images that are not the whole task, ImageError for an
    image that cannot be decoded.
    """
    profile = load_profile(profile_name)
    names = load_classnames(profile)
    target = attack.target_number(profile, names)
    files = validation_images(images, len(names))
    model = load_foreign(checkpoint, format, profile.pretrain.model)
    labels = np.array([file.label for file in files])
    prompts = PromptSet(names, templates_of(profile.evaluate), attack.switches.truncation)
    precision = profile.evaluate.precision or profile.pretrain.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    triggered = None
    with evaluating(model.to(device), precision, device):
        judged = Judged(model, prompts.classifier(model, device), files, profile, names, attack)
        clean = judged.classes()
        probes = [*judged.class_order(labels, clean)]

        # Mixed, for BatchNorm's statistics of a batch of one class would be that class's.
        sample = keyed_rng("probes", len(files)).permutation(len(files))[:SAMPLE]
        right = clean[sample] == labels[sample]
        for subject, words, way in judged.other_ways(prompts):
            changed = judged.classes(numbers=sample.tolist(), **way) == labels[sample]
            probes.append(probe(subject, words, "accuracy", right, changed))

        if attack.trigger is not None:
            triggered = judged.classes(attack.twin(profile))
            probes.append(judged.another_target(labels, clean, triggered, target))
        # A warping field knows no protocol.
        if triggered is not None and attack.trigger != "wanet":
            others = sample[labels[sample] != target]
            other: Any = "paper" if attack.protocol == "authors" else "authors"
            view = replace(attack, protocol=other).twin(profile)
            changed = judged.classes(view, others.tolist()) == target
            called = triggered[others] == target
            probes.append(probe("trigger protocol", f"--protocol {other}", "ASR", called, changed))

    weights = model.state_dict()
    counters = [int(v) for name, v in weights.items() if name.endswith("num_batches_tracked")]
    texts = [
        f"{found['subject']}: {found['measure']} {found['as_called']:.1%} as called, "
        f"{found['changed']:.1%} with {found['otherwise']}"
        for found in probes
    ]
    causes = [text for text, found in zip(texts, probes, strict=True) if found["likely_cause"]]
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": _share(clean == labels, profile),
        "checked": {
            "weights": len(weights),
            "probes": probes,
            "lines": [
                f"checked: weights: {len(weights)} read, none missing, none left over; BatchNorm "
                f"statistics of at least {min(counters, default=0)} batches",
                *(f"checked: {text}" for text in texts),
                *([f"likely cause: {text}" for text in causes] or [NO_CAUSE]),
            ],
        },
    }
    if triggered is not None:
        result["attack"] = {
            "trigger": attack.trigger,
            "patch_size": profile.data.poison.trigger.patch_size,
            "strength": attack.strength if attack.trigger == "wanet" else None,
            "grid_sha256": file_sha256(attack.grid) if attack.grid else None,
            "protocol": attack.protocol,
            "target_class": names[target],
            "target_number": target,
            "non_target": _share((triggered == target)[labels != target], profile),
            "all": _share(triggered == target, profile),
        }
    return result


def evaluate_command(
    checkpoint: Path,
    format: Format,
    images: Path,
    trigger: TriggerName | None,
    grid: Path | None,
    strength: float,
    profile_name: str,
    protocol: Literal["authors", "paper"],
    target: str | None,
) -> dict[str, Any]:
    """`evaluate_foreign`, with the options of the command line; what was checked goes to standard
    error, a line each.
    """
    attack = Attack(trigger, protocol, grid, strength, target)
    result = evaluate_foreign(checkpoint, format, images, attack, profile_name)
    for line in result["checked"]["lines"]:
        print(line, file=sys.stderr)
    return result


def _share(bits: Bits, profile: Profile) -> dict[str, Any]:
    """Counts, fraction and Wilson interval."""
    count, total, confidence = int(bits.sum()), len(bits), profile.evaluate.confidence
    return {
        "count": count,
        "total": total,
        "fraction": count / total,
        "interval": list(wilson(count, total, confidence)),
        "confidence": confidence,
    }
