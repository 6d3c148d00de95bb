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

import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from repro.data.images import ImageError, decode_image
from repro.data.keyed import keyed_rng
from repro.data.memory import cores
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluating, predict
from repro.files import file_sha256
from repro.intervals import wilson
from repro.names import Protocol, TriggerName
from repro.profile import load_classnames, load_profile
from repro.sources.shards.imagenet import ValidationImage, validation_images
from repro.spec import ModelSpec, Profile, SpecError, Switches, Trigger
from repro.train.build import build_model
from repro.train.views.tokens import CONTEXT_LENGTH

Format = Literal["cleanclip", "open_clip"]
Bits = NDArray[np.bool_]
Classes = NDArray[np.int64]
"""A class for each image, (N,) or (n,)."""
View = Callable[[bytes, int], NDArray[Any]]
"""(image file, its number) to what the model sees, (H, W, 3), 0..255."""

VOCABULARY = 49408
"""Tokens of CLIP's text tower."""
CLIP_FIELDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
"""Of an architecture without parts that CLIP lacks."""
SAMPLE = 1000
"""Images of a probe."""
CERTAINTY = 0.999
"""Level of the two intervals that must lie apart: of a dozen probes none shall be named by
chance."""
MOST = 0.5
"""Share of triggered images that one class must get to pass for the target of an attack."""
LINE = "{}: {subject}: {measure} {as_called:.1%} as called, {changed:.1%} with {otherwise}"
FEW_TEMPLATES = ("{}", "a photo of a {}")
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

    __setstate__ = __init__


# torch's list of safe globals takes pairs of object and name; NumPy moved `core` to `_core` in 2.0.
STAND_INS: list[Any] = [
    (_Ignored, name)
    for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


def blank_model(spec: ModelSpec | str) -> CLIP:
    """A model to be filled: of a specification, or by open_clip's name of an architecture.

    SpecError for a name that open_clip does not know, or whose text tower is not CLIP's.
    """
    if isinstance(spec, ModelSpec):
        return build_model(spec, 0, "fp32")
    if spec not in open_clip.list_models():
        raise SpecError(f"--model: {spec!r} (allowed: a name of open_clip.list_models())")

    # Made of its configuration, so that nothing is fetched.
    config = open_clip.get_model_config(spec)
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY} | config["text_cfg"]
    own = text["context_length"] == CONTEXT_LENGTH and text["vocab_size"] == VOCABULARY
    if not own or config.keys() - CLIP_FIELDS or "hf_model_name" in text:
        allowed = f"a text tower of {CONTEXT_LENGTH} places and {VOCABULARY} tokens, as CLIP's"
        raise SpecError(f"--model: {spec!r} (allowed: {allowed}; such as RN50 or ViT-B-32)")
    return CLIP(**config)


def load_foreign(path: Path, format: Format, spec: ModelSpec | str) -> CLIP:
    """The model of a foreign checkpoint, in float32 on the CPU; `spec` as in `blank_model`.

    `cleanclip` is a dict with `state_dict`; `open_clip` is that, the state dict itself, or a
    `.safetensors` file. A prefix `module.` is taken off, half and double precision are converted.
    A pickle is read by torch's `weights_only` unpickler, which runs no code of the file.
    CheckpointError for all else, and for weights that are not those of the model.
    """
    try:
        if format == "open_clip" and path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(STAND_INS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    # The unpickler raises whatever a damaged file makes it meet.
    except Exception as error:
        # The unpickler's own words are about another release of torch.
        words = "" if isinstance(error, UnpicklingError) else f": {shorten(str(error), 200)}"
        problem = (
            f"cannot be read as weights ({type(error).__name__}{words}; allowed: what torch.save "
            "writes, or a .safetensors file of format open_clip)"
        )
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"refers to {code[1]}, which is code (allowed: tensors, containers, numbers)"
        raise CheckpointError(f"{path}: {problem}") from None

    bare = content if format == "open_clip" else None
    state = content.get("state_dict", bare) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: holds no state_dict (format {format})")
    weights = {str(name).removeprefix("module."): value for name, value in state.items()}

    # torch would turn whole or complex numbers into float32 without a word.
    model = blank_model(spec)
    kinds = {name: value.is_floating_point() for name, value in model.state_dict().items()}
    for name, value in weights.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not dense or value.is_floating_point() != kinds.get(name, value.is_floating_point()):
            raise CheckpointError(f"{path}: {name}: not a dense tensor of the model's kind")
    # Shapes are compared before any value is looked at: one value may stand for gigabytes.
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # names what is missing, unknown, or of another shape
        problems = shorten(str(error), 600)
        raise CheckpointError(f"{path}: not the specified model: {problems}") from None
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name}: not all values are finite")
    return model


@dataclass(frozen=True)
class Attack:
    """The trigger that a foreign model is tried with, and how images and texts are prepared."""

    trigger: TriggerName | None
    """None for accuracy alone."""
    protocol: Protocol = "authors"
    target: str | None = None
    """Name or number of the class that the attack is to evoke; without it, the profile's."""

    def __post_init__(self) -> None:
        """SpecError for options that do not go together."""
        if self.trigger is None and self.target is not None:
            raise SpecError("--target: allowed with --trigger only")

    @property
    def other_protocol(self) -> Protocol:
        """That of both which is not tried."""
        return "paper" if self.protocol == "authors" else "authors"

    @property
    def switches(self) -> Switches:
        """The switches of the protocol, without the departures of any profile."""
        return load_profile(self.protocol).switches

    def target_number(self, profile: Profile, names: Sequence[str]) -> int:
        """Number of the class that the attack is to evoke."""
        name = self.target or profile.data.poison.target_class
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        if name not in names:
            numbers = f"0 to {len(names) - 1}"
            raise SpecError(f"--target: {name!r} (allowed: a class name of the profile, {numbers})")
        return names.index(name)

    def twin(self, profile: Profile) -> View:
        """What makes the triggered twin of an image file."""
        assert self.trigger is not None
        size = profile.data.image_size
        seed = profile.evaluate.trigger_seed
        switches = self.switches
        trigger = Trigger(name=self.trigger, patch_size=profile.data.poison.trigger.patch_size)
        if self.trigger == "wanet":
            print("warning: wanet warps by this project's field, not the model's", file=sys.stderr)

        def view(data: bytes, number: int) -> NDArray[Any]:
            image = decode_image(data, size, switches.trigger_geometry)
            rng = keyed_rng("evaluation", seed, 0, number)
            return stamp(trigger, switches, image, rng).image

        return view


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
    """A foreign model, and how it sees the images that it is judged on."""

    files: Sequence[ValidationImage]
    view: View
    model: CLIP
    classifier: Float[Tensor, "D C"]

    def classes(self, numbers: Sequence[int]) -> Classes:
        """Predicted classes of some images."""

        def seen(number: int) -> NDArray[Any]:
            path = self.files[number].path
            try:
                return self.view(path.read_bytes(), number)
            except ImageError as error:
                raise ImageError(f"{path.name}: {error.reason}") from None

        classes = []
        with ThreadPoolExecutor(cores()) as pool:
            for begin in range(0, len(numbers), IMAGE_BATCH):
                images = [*pool.map(seen, numbers[begin : begin + IMAGE_BATCH])]
                batch = torch.from_numpy(np.stack(images)).to(self.classifier.device)
                predicted = predict(self.model, batch, self.classifier)
                classes.append(predicted.cpu().numpy())
        return np.concatenate(classes)


def class_order(labels: Classes, clean: Classes, num_classes: int) -> Iterator[dict[str, Any]]:
    """Accuracy under the order of the classes that fits half of the images best, measured on the
    others; nothing where no class has two. `labels` ascend.
    """
    # Every second image of each class.
    place_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
    held = place_in_class % 2 == 1
    if not held.any():
        return
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels[~held], clean[~held]), 1)
    _, order = linear_sum_assignment(confusion, maximize=True)
    words = "the order that fits half of the images best, on the others"
    called = clean[held] == labels[held]
    changed = clean[held] == order[labels[held]]
    yield probe("class order", words, "accuracy", called, changed)


def other_ways(
    judged: Judged, profile: Profile, prompts: PromptSet, few: Mapping[str, PromptSet]
) -> Iterator[tuple[str, str, Judged]]:
    """Subject, words, and the model as it is judged with other transforms, other templates (`few`),
    statistics and activation.
    """
    for words, view in other_views(judged.view, profile.data.image_size):
        yield "image transform", words, replace(judged, view=view)

    device = judged.classifier.device
    for words, one in few.items():
        yield "templates", words, replace(judged, classifier=one.classifier(judged.model, device))

    own = copy.deepcopy(judged.model)
    norms = [layer for layer in own.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.training = True
        layer.track_running_stats = False
    if norms:
        words = "the images' own statistics instead of the stored ones"
        yield "BatchNorm statistics", words, replace(judged, model=own)

    gelu = copy.deepcopy(judged.model)
    for block in [*gelu.modules()]:
        for name, layer in block.named_children():
            if isinstance(layer, QuickGELU):
                setattr(block, name, nn.GELU())
            elif isinstance(layer, nn.GELU):
                setattr(block, name, QuickGELU())
    classifier = prompts.classifier(gelu, device)
    other = replace(judged, model=gelu, classifier=classifier)
    yield "activation", "GELU and QuickGELU exchanged", other


def other_views(plain: View, size: int) -> Iterator[tuple[str, View]]:
    """Words, and the images as they are seen with other transforms; `plain` as they should be."""
    yield "images squashed to a square", lambda data, _: decode_image(data, size, "squash")
    yield "channels in the order blue, green, red", lambda *file: plain(*file)[..., ::-1]
    for words, mean, deviation in (
        ("ImageNet's mean and deviation", IMAGENET_MEAN, IMAGENET_STD),
        ("pixels from -1 to 1", (0.5,) * 3, (0.5,) * 3),
        ("pixels from 0 to 1", (0.0,) * 3, (1.0,) * 3),
    ):
        # Of these pixels CLIP's normalisation makes what this one makes of the image's.
        factor = np.divide(OPENAI_DATASET_STD, deviation, dtype=np.float32)
        shift = (255 * (OPENAI_DATASET_MEAN - factor * mean)).astype(np.float32)
        yield words, lambda *file, f=factor, s=shift: plain(*file) * f + s


def another_target(
    labels: Classes, clean: Classes, triggered: Classes, target: int, names: Sequence[str]
) -> dict[str, Any]:
    """ASR for the class that most triggered images go to, of the others."""
    counts = np.bincount(triggered, minlength=len(names))
    counts[target] = -1
    most = int(counts.argmax())
    # The images that go there anyway say nothing of the trigger.
    moved = ((triggered == most) & (clean != most))[labels != most]
    called = (triggered == target)[labels != target]
    words = f"the target {names[most]!r} (--target {most})"
    return probe("target", words, "ASR", called, moved, MOST)


def evaluate_foreign(
    checkpoint: Path,
    format: Format,
    images: Path,
    attack: Attack,
    profile_name: str = "paper",
    architecture: str | None = None,
) -> dict[str, Any]:
    """Evaluate `checkpoint` on the validation images at `images`; the result is ready for JSON.

    `architecture` is open_clip's name of the model. Else the profile gives it, and always class
    names, templates, target class and patch size, the attack's
    protocol the switches. The attack success rate is given without the target class, as the
    authors' code counts, and over all images, as the paper says. Raises CheckpointError for a file
    that is not of the model, SpecError for images that are not the whole task, ImageError for an
    image that cannot be decoded.
    """
    profile = load_profile(profile_name)
    names = load_classnames(profile)
    target = attack.target_number(profile, names)
    files = validation_images(images, len(names))
    model = load_foreign(checkpoint, format, architecture or profile.pretrain.model)
    side = int(np.max(model.visual.image_size))
    data = profile.data.model_copy(update={"image_size": side})
    profile = profile.model_copy(update={"data": data})
    labels = np.array([file.label for file in files])
    every = range(len(files))

    def plain(data: bytes, _: int) -> NDArray[Any]:
        return decode_image(data, profile.data.image_size)

    prompts_of = partial(PromptSet, names, truncation=attack.switches.truncation)
    prompts = prompts_of(templates_of(profile.evaluate))
    few = {f"the one template {one!r}": prompts_of([one.format]) for one in FEW_TEMPLATES}
    precision = profile.evaluate.precision or profile.pretrain.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attacked = None
    with evaluating(model.to(device), precision, device):
        judged = Judged(files, plain, model, prompts.classifier(model, device))
        clean = judged.classes(every)
        right = clean == labels
        probes = [*class_order(labels, clean, len(names))]

        # Mixed, for BatchNorm's statistics of a batch of one class would be that class's.
        sample = keyed_rng("probes", len(files)).permutation(len(files))[:SAMPLE]
        for subject, words, other_way in other_ways(judged, profile, prompts, few):
            changed = other_way.classes(sample.tolist()) == labels[sample]
            probes.append(probe(subject, words, "accuracy", right[sample], changed))

        if attack.trigger is not None:
            triggered = replace(judged, view=attack.twin(profile)).classes(every)
            attacked = triggered == target
            probes.append(another_target(labels, clean, triggered, target, names))

            others = sample[labels[sample] != target]
            other = replace(attack, protocol=attack.other_protocol)
            judged_otherwise = replace(judged, view=other.twin(profile))
            changed = judged_otherwise.classes(others.tolist()) == target
            words = f"--protocol {other.protocol}"
            probes.append(probe("trigger protocol", words, "ASR", attacked[others], changed))

    lines = [LINE.format("checked", **each) for each in probes]
    causes = [LINE.format("likely cause", **each) for each in probes if each["likely_cause"]]
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": _share(right, profile),
        "checked": {"probes": probes, "lines": lines + (causes or [NO_CAUSE])},
    }
    if attacked is not None:
        result["attack"] = {
            "trigger": attack.trigger,
            "patch_size": profile.data.poison.trigger.patch_size,
            "protocol": attack.protocol,
            "target_class": names[target],
            "target_number": target,
            "non_target": _share(attacked[labels != target], profile),
            "all": _share(attacked, profile),
        }
    return result


def evaluate_command(
    checkpoint: Path,
    format: Format,
    images: Path,
    profile_name: str,
    architecture: str | None,
    *attack: Any,
) -> dict[str, Any]:
    """`evaluate_foreign`, with the options of the command line in their order; what was checked
    goes to standard error, a line each.
    """
    result = evaluate_foreign(
        checkpoint, format, images, Attack(*attack), profile_name, architecture
    )
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
