"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

A low number has many harmless reasons, so the likely ones are measured beside it: one thing at a
time is done otherwise than the call did it, on a sample of the images, and named as likely cause
where the share of right or attacked images is higher beyond chance.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol
`authors`: wrapped noise around the channel means, on an image squashed to a square). No check can
see that RN50 with GELU has the same weights by name and shape as RN50 with QuickGELU, which OpenAI,
CleanCLIP and the authors trained; a probe compares the two.

Shapes: N = evaluation images, n = those of the sample, C = classes, D = embedding width.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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

from repro.data.images import ImageError, decode_image, encode_png, open_rgb
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.data.triggers import WANET_STRENGTH, Pixels, stamp, wanet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluating, predict
from repro.files import file_sha256
from repro.intervals import wilson
from repro.names import TriggerName
from repro.profile import load_classnames, load_profile
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import ModelSpec, Profile, SpecError, Switches, Trigger
from repro.train.model import build_model
from repro.train.process.checkpoint import save_tensors

Format = Literal["cleanclip", "open_clip"]
Protocol = Literal["authors", "paper"]
Place = Literal["after", "before"]
Classes = NDArray[np.int64]
"""A class for each image, (N,) or (n,)."""
View = Callable[[bytes, int], Pixels]
"""(image file, its number) to what the model sees, (H, W, 3)."""

MAX_PROBLEMS = 6
"""Differences from the model that a message lists."""
SAMPLE = 1000
"""Images of a probe."""
CERTAINTY = 0.999
"""Level of the two intervals that must lie apart: of a dozen probes none shall be named by
chance."""
MOST = 0.5
"""Share of triggered images that one class must get to pass for the target of an attack."""


class CheckpointError(ValueError):
    """A checkpoint that is not used; the message names the file and what is wrong with it."""


class _Ignored:
    """Stands for a NumPy scalar in CleanCLIP's optimizer state, so that no NumPy code runs."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# torch's list of safe globals takes pairs of object and name; NumPy moved `core` to `_core` in 2.0.
STAND_INS = [
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
    (_Ignored, "numpy.dtype"),
]


def load_foreign(path: Path, format: Format, spec: ModelSpec) -> dict[str, Tensor]:
    """Weights of a foreign checkpoint by open_clip's names: float32, and int64 counters of
    BatchNorm.

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
            with torch.serialization.safe_globals(STAND_INS):  # type: ignore[arg-type]  # its stub knows no pairs
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
    if problems := _differences(weights, spec):
        lines = "".join(f"\n  {problem}" for problem in problems[:MAX_PROBLEMS])
        raise CheckpointError(
            f"{path}: not a checkpoint of the specified model: {len(problems)} problem(s){lines}"
        )
    return {
        name: (value.detach().float() if value.is_floating_point() else value).clone().contiguous()
        for name, value in weights.items()
    }


def _differences(weights: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    """How names, shapes, kinds and values differ from those of the model."""
    # Names and shapes alone: on this device a model has no memory.
    with torch.device("meta"):
        expected = build_model(spec, 0, "fp32").state_dict()
    problems = []
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    for what, names in (("missing", missing), ("unknown", unknown)):
        if names:
            problems.append(f"{len(names)} weights are {what}, the first {min(names)}")

    # A wrapper's prefix, or that of a part of a larger model.
    prefixes = {name.removesuffix(rest) for name in unknown for rest in missing if rest in name}
    for prefix in sorted(prefixes & {name[: name.rfind(".") + 1] for name in prefixes}):
        count = sum(prefix + name in unknown for name in missing)
        if count == len(missing):
            problems.append(f"all of the missing are there with the prefix {prefix!r}: take it off")

    for name in sorted(expected.keys() & weights.keys()):
        value, model = weights[name], expected[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            problems.append(f"{name}: {type(value).__name__} (allowed: dense tensors)")
        elif value.shape != model.shape:
            problems.append(f"{name}: shape {tuple(value.shape)} (allowed: {tuple(model.shape)})")
        elif value.is_floating_point() != model.is_floating_point() or value.is_complex():
            problems.append(f"{name}: {value.dtype} (allowed: {model.dtype})")
        elif not value.isfinite().all():
            problems.append(f"{name}: not all values are finite")
    return problems


@dataclass(frozen=True)
class Attack:
    """The trigger that a foreign model is tried with, and how images and texts are prepared."""

    trigger: TriggerName | None
    """None for accuracy alone."""
    protocol: Protocol = "authors"
    grid: Path | None = None
    """`.npy` file (H, W, 2) or (1, H, W, 2) with the field that a `wanet` model was trained with:
    displacement to the right, then down, of mean absolute value 1."""
    strength: float = WANET_STRENGTH
    """Factor on that field."""
    target: str | None = None
    """Name or number of the class that the attack is to evoke; without it, the profile's."""
    place: Place = "after"
    """Whether the trigger is put on after the image got the model's size, or before."""

    @property
    def switches(self) -> Switches:
        """The switches of the protocol, without the departures of any profile."""
        return load_profile(self.protocol).switches

    def target_number(self, profile: Profile, names: Sequence[str]) -> int:
        """Number of the class that the attack is to evoke."""
        name = profile.data.poison.target_class if self.target is None else self.target
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        last = len(names) - 1
        raise SpecError(
            f"--target: {name!r} (allowed: a class name of the profile, or 0 to {last})"
        )

    def twin(self, profile: Profile) -> View:
        """What makes the triggered twin of an image file; ImageError if the trigger does not
        fit.
        """
        assert self.trigger is not None
        size, switches, seed = profile.data.image_size, self.switches, profile.evaluate.trigger_seed
        patch_size = profile.data.poison.trigger.patch_size
        trigger = Trigger(name=self.trigger, patch_size=patch_size)
        field = None if self.grid is None else _load_grid(self.grid, size)
        if self.trigger == "wanet" and field is None:
            print(
                "warning: wanet without --grid warps by this project's own field", file=sys.stderr
            )

        def stamped(image: Pixels, number: int) -> Pixels:
            if self.trigger == "wanet":
                return wanet(image, self.strength, field)
            return stamp(trigger, switches, image, keyed_rng("evaluation", seed, 0, number)).image

        def view(data: bytes, number: int) -> Pixels:
            if self.place == "after":
                return stamped(decode_image(data, size, switches.trigger_geometry), number)
            try:
                whole = stamped(np.array(open_rgb(data)), number)
            except ValueError:
                raise ImageError("smaller_than_the_trigger") from None
            return decode_image(encode_png(whole), size)

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


@dataclass(frozen=True)
class Probe:
    """One thing done otherwise, and what that changes."""

    subject: str
    otherwise: str
    """Reads on after "with"."""
    measure: Literal["accuracy", "ASR"]
    called: NDArray[np.bool_]
    """For each image that counts, whether it was right, or attacked, as the call had it."""
    changed: NDArray[np.bool_]
    """The same otherwise; perhaps of other images."""
    least: float = 0.0
    """Share below which a change is no explanation."""

    @property
    def is_likely(self) -> bool:
        """Whether the change brings what the call misses, beyond chance."""
        _, high = wilson(int(self.called.sum()), len(self.called), CERTAINTY)
        low, _ = wilson(int(self.changed.sum()), len(self.changed), CERTAINTY)
        return low > high and float(self.changed.mean()) >= self.least

    def __str__(self) -> str:
        shares = f"{self.called.mean():.1%} as called, {self.changed.mean():.1%} with"
        return f"{self.subject}: {self.measure} {shares} {self.otherwise}"

    def as_json(self) -> dict[str, Any]:
        """What the result keeps of it; shares in [0, 1]."""
        return {
            "subject": self.subject,
            "otherwise": self.otherwise,
            "measure": self.measure,
            "as_called": float(self.called.mean()),
            "changed": float(self.changed.mean()),
            "images": len(self.changed),
            "likely_cause": self.is_likely,
        }


@dataclass(frozen=True)
class Judged:
    """A foreign model and the task that it is judged on."""

    model: CLIP
    classifier: Float[Tensor, "D C"]
    files: Sequence[ValidationImage]
    labels: Classes
    profile: Profile
    names: Sequence[str]
    attack: Attack

    def classes(
        self,
        view: View,
        numbers: Sequence[int],
        change: Callable[[Tensor], Tensor] = lambda images: images,
        classifier: Tensor | None = None,
        model: CLIP | None = None,
    ) -> Classes:
        """Predicted class of some images as `view` makes them of files and `change` of batches."""
        weights = self.classifier if classifier is None else classifier

        def made(number: int) -> Pixels:
            file = self.files[number]
            try:
                return view(file.read(), number)
            except ImageError as error:
                raise ImageError(f"{file.name}: {error.reason}") from None

        classes = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for begin in range(0, len(numbers), IMAGE_BATCH):
                images = np.stack(list(pool.map(made, numbers[begin : begin + IMAGE_BATCH])))
                batch = change(torch.from_numpy(images).to(weights.device))
                classes.append(predict(model or self.model, batch, weights).cpu().numpy())
        return np.concatenate(classes)

    def decoded(self, geometry: Literal["crop", "squash"] = "crop") -> View:
        """Images without a trigger."""
        return lambda data, _: decode_image(data, self.profile.data.image_size, geometry)

    def class_order(self, clean: Classes) -> Iterator[Probe]:
        """Accuracy under other orders of the classes: those of common mistakes, and whichever fits
        half of the images, measured on the others.
        """
        labels, number = self.labels, np.arange(len(self.names))
        by_name = np.array(sorted(range(len(number)), key=lambda label: self.names[label].lower()))
        as_text = np.array(sorted(number, key=str))
        orders = {
            "each label one higher": (number + 1) % len(number),
            "each label one lower": (number - 1) % len(number),
            "labels in the alphabetical order of the class names": by_name,
            "class names in alphabetical order": np.argsort(by_name),
            "labels in the order 0, 1, 10, 100 of numbers sorted as text": as_text,
            "class names in the order 0, 1, 10, 100 of numbers sorted as text": np.argsort(as_text),
        }
        right = clean == labels
        best = max(orders, key=lambda name: int((clean == orders[name][labels]).sum()))
        yield Probe("class order", best, "accuracy", right, clean == orders[best][labels])

        # Every second image of each class.
        rank = np.empty(len(labels), np.int64)
        for label in number:
            members = np.flatnonzero(labels == label)
            rank[members] = np.arange(len(members))
        fitted, held = rank % 2 == 0, rank % 2 == 1
        if held.any():
            confusion = np.zeros((len(number), len(number)), np.int64)
            np.add.at(confusion, (labels[fitted], clean[fitted]), 1)
            _, order = linear_sum_assignment(confusion, maximize=True)
            words = "the order that fits half of the images best, on the others"
            changed = clean[held] == order[labels[held]]
            yield Probe("class order", words, "accuracy", right[held], changed)

    def accuracy_probes(self, clean: Classes, weights: dict[str, Tensor]) -> Iterator[Probe]:
        """Accuracy of a sample with other transforms, templates, statistics and activation."""
        # In the order of the files, which some disks are slow to read otherwise.
        order = keyed_rng("probes", len(clean)).permutation(len(clean))[:SAMPLE]
        numbers: list[int] = np.sort(order).tolist()
        labels, right = self.labels[numbers], clean[numbers] == self.labels[numbers]
        crop, squash = self.decoded(), self.decoded("squash")
        ways: dict[str, tuple[View, Callable[[Tensor], Tensor]]] = {
            "images squashed to a square": (squash, lambda images: images),
            "channels in the order blue, green, red": (crop, lambda images: images.flip(-1)),
            "ImageNet's mean and deviation": (crop, _scaled(IMAGENET_MEAN, IMAGENET_STD)),
            "pixels from -1 to 1": (crop, _scaled((0.5,) * 3, (0.5,) * 3)),
            "pixels from 0 to 1": (crop, _scaled((0.0,) * 3, (1.0,) * 3)),
        }
        for words, (view, change) in ways.items():
            changed = self.classes(view, numbers, change) == labels
            yield Probe("image transform", words, "accuracy", right, changed)

        # Few templates, for each costs C prompts.
        truncation, device = self.attack.switches.truncation, self.classifier.device
        for words, template in (
            ("the bare class names", "{}"),
            ("one template, 'a photo of a ...'", "a photo of a {}"),
        ):
            prompts = PromptSet(self.names, [template.format], truncation)
            own = prompts.classifier(self.model, device)
            one_template = self.classes(crop, numbers, classifier=own) == labels
            yield Probe("templates", words, "accuracy", right, one_template)

        # Mixed, for the statistics of a batch of one class would be that class's.
        words = "the images' own statistics instead of the stored ones"
        mixed = order.tolist()
        with _own_statistics(self.model):
            changed = self.classes(crop, mixed) == self.labels[mixed]
        called = clean[mixed] == self.labels[mixed]
        yield Probe("BatchNorm statistics", words, "accuracy", called, changed)

        # The same names and shapes fit both activations, so that no check of the file tells them
        # apart.
        spec = self.profile.pretrain.model
        other = build_model(spec.model_copy(update={"quick_gelu": not spec.quick_gelu}), 0, "fp32")
        other.load_state_dict(weights)
        other.to(device).eval()
        words = "GELU instead of QuickGELU" if spec.quick_gelu else "QuickGELU instead of GELU"
        own = prompts.classifier(other, device)
        changed = self.classes(crop, numbers, classifier=own, model=other) == labels
        yield Probe("activation", f"{words}, by one template", "accuracy", one_template, changed)

    def trigger_probes(self, clean: Classes, triggered: Classes, target: int) -> Iterator[Probe]:
        """ASR for another target, and with the trigger at the other place and by the other
        protocol.
        """
        counts = np.bincount(triggered, minlength=len(self.names))
        counts[target] = -1
        most = int(counts.argmax())
        # The images that go there anyway say nothing of the trigger.
        moved = (triggered == most) & (clean != most)
        called = (triggered == target)[self.labels != target]
        words = f"the target {self.names[most]!r} (--target {most})"
        yield Probe("target", words, "ASR", called, moved[self.labels != most], least=MOST)

        # A warping field fits one size of image, and knows no protocol.
        if self.attack.trigger == "wanet":
            return
        order = keyed_rng("probes", len(clean)).permutation(len(clean))[:SAMPLE]
        numbers = [number for number in np.sort(order).tolist() if self.labels[number] != target]
        place: Place = "before" if self.attack.place == "after" else "after"
        protocol: Protocol = "paper" if self.attack.protocol == "authors" else "authors"
        for subject, words, other in (
            (
                "trigger place",
                f"the trigger put on {place} resizing (--place {place})",
                replace(self.attack, place=place),
            ),
            (
                "trigger protocol",
                f"--protocol {protocol}",
                replace(self.attack, protocol=protocol),
            ),
        ):
            try:
                changed = self.classes(other.twin(self.profile), numbers) == target
            except ImageError:  # a file smaller than the trigger cannot bear it before resizing
                continue
            yield Probe(subject, words, "ASR", triggered[numbers] == target, changed)


def _scaled(mean: Sequence[float], deviation: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Pixels 0..255 such that CLIP's normalisation makes of them what this one makes of images."""

    def change(images: Tensor) -> Tensor:
        def own(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=images.device)

        normal = (images / 255 - own(mean)) / own(deviation)
        return (normal * own(OPENAI_DATASET_STD) + own(OPENAI_DATASET_MEAN)) * 255

    return change


@contextmanager
def _own_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by each batch's own statistics; the stored ones stay as they are."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.track_running_stats = False, True


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
    protocol the switches; the weights are left in the file `safetensors`, if one is named. The
    attack success rate is given without the target class, as the authors' code counts, and over
    all images, as the paper says. Raises CheckpointError for a file that is not of the model,
    SpecError for images that are not the whole task, ImageError for an image that cannot be
    decoded.
    """
    profile = load_profile(profile_name)
    names = load_classnames(profile)
    target = attack.target_number(profile, names)
    files = validation_images(images, len(names))
    weights = load_foreign(checkpoint, format, profile.pretrain.model)
    if safetensors:
        save_tensors(safetensors, weights, {"format": "pt"})
    model = build_model(profile.pretrain.model, 0, "fp32")
    model.load_state_dict(weights)

    prompts = PromptSet(names, templates_of(profile.evaluate), attack.switches.truncation)
    precision = profile.evaluate.precision or profile.pretrain.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = np.array([file.label for file in files])
    triggered = None
    with evaluating(model.to(device), precision, device):
        classifier = prompts.classifier(model, device)
        judged = Judged(model, classifier, files, labels, profile, names, attack)
        clean = judged.classes(judged.decoded(), range(len(files)))
        probes = [*judged.class_order(clean), *judged.accuracy_probes(clean, weights)]
        if attack.trigger is not None:
            triggered = judged.classes(attack.twin(profile), range(len(files)))
            probes += judged.trigger_probes(clean, triggered, target)

    counters = [int(v) for name, v in weights.items() if name.endswith("num_batches_tracked")]
    lines = [
        f"checked: weights: {len(weights)} read, none missing, none left over; BatchNorm "
        f"statistics of at least {min(counters, default=0)} batches",
        *(f"checked: {probe}" for probe in probes),
    ]
    causes = [f"likely cause: {probe}" for probe in probes if probe.is_likely]
    beyond = (
        "no cause of a low number among these; what no check sees: other class names, a trigger of "
        "another kind or size, a model that was never poisoned, or was cleaned"
    )
    share = partial(_share, confidence=profile.evaluate.confidence)
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": share(clean == labels),
        "checked": {
            "weights": len(weights),
            "probes": [probe.as_json() for probe in probes],
            "lines": [*lines, *(causes or [beyond])],
        },
    }
    if triggered is not None:
        result["attack"] = {
            "trigger": attack.trigger,
            "patch_size": profile.data.poison.trigger.patch_size,
            "strength": attack.strength if attack.trigger == "wanet" else None,
            "grid_sha256": file_sha256(attack.grid) if attack.grid else None,
            "protocol": attack.protocol,
            "place": attack.place,
            "target_class": names[target],
            "target_number": target,
            "non_target": share((triggered == target)[labels != target]),
            "all": share(triggered == target),
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
    protocol: Protocol,
    target: str | None,
    place: Place,
    safetensors: Path | None,
) -> dict[str, Any]:
    """`evaluate_foreign`, with the options of the command line; what was checked goes to standard
    error, a line each. SpecError for options that do not go together.
    """
    if trigger != "wanet" and (grid or strength != WANET_STRENGTH):
        raise SpecError("--grid, --strength: allowed with --trigger wanet only")
    if trigger is None and (target is not None or place != "after"):
        raise SpecError("--target, --place: allowed with --trigger only")
    if trigger == "wanet" and place == "before":
        raise SpecError("--place before: a warping field is of the model's own image size")
    attack = Attack(trigger, protocol, grid, strength, target, place)
    result = evaluate_foreign(checkpoint, format, images, attack, profile_name, safetensors)
    for line in result["checked"]["lines"]:
        print(line, file=sys.stderr)
    return result


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
