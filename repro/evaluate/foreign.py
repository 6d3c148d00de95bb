"""Zero-shot accuracy and attack success of somebody else's checkpoint: `python -m repro evaluate`.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol
`authors`: wrapped noise around the channel means, on an image squashed to a square). No check of a
file can tell RN50 with GELU from RN50 with QuickGELU, which OpenAI, CleanCLIP and the authors
trained: names and shapes are the same.

Shapes: N = evaluation images, C = classes, D = embedding width.
"""

import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor

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
View = Callable[[bytes, int], NDArray[np.uint8]]
"""(image file, its number) to what the model sees, (H, W, 3)."""

VOCABULARY = 49408
"""Tokens of CLIP's text tower."""
CLIP_FIELDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
"""Of an architecture without parts that CLIP lacks."""


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


def evaluate_foreign(
    checkpoint: Path,
    format: Format,
    images: Path,
    profile_name: str = "paper",
    architecture: str | None = None,
    trigger: TriggerName | None = None,
    protocol: Protocol = "authors",
    target: str | None = None,
) -> dict[str, Any]:
    """Evaluate `checkpoint` on the validation images at `images`; the result is ready for JSON.

    `architecture` is open_clip's name of the model; else the profile gives it, and always class
    names, templates and patch size. Without `trigger` accuracy alone is measured; `protocol` gives
    its switches, and `target`, name or number of a class, is else the profile's. The attack success
    rate is given without the target class, as the authors' code counts, and over all images, as
    the paper says. Raises CheckpointError for a file that is not of the model, SpecError for
    images that are not the whole task, ImageError for an image that cannot be decoded.
    """
    if trigger is None and target is not None:
        raise SpecError("--target: allowed with --trigger only")
    profile = load_profile(profile_name)
    names = load_classnames(profile)
    number = target_number(target or profile.data.poison.target_class, names)
    files = validation_images(images, len(names))
    model = load_foreign(checkpoint, format, architecture or profile.pretrain.model)
    side = int(np.max(model.visual.image_size))
    labels = np.array([file.label for file in files])

    # Of the protocol, without the departures of any profile.
    switches = load_profile(protocol).switches
    prompts = PromptSet(names, templates_of(profile.evaluate), switches.truncation)
    precision = profile.evaluate.precision or profile.pretrain.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attack = None
    with evaluating(model.to(device), precision, device):
        classifier = prompts.classifier(model, device)
        clean = classes(files, lambda data, _: decode_image(data, side), model, classifier)
        if trigger is not None:
            patch = Trigger(name=trigger, patch_size=profile.data.poison.trigger.patch_size)
            view = twin(patch, switches, side, profile.evaluate.trigger_seed)
            attacked = classes(files, view, model, classifier) == number
            attack = {
                "trigger": trigger,
                "patch_size": patch.patch_size,
                "protocol": protocol,
                "target_class": names[number],
                "target_number": number,
                "non_target": share(attacked[labels != number], profile),
                "all": share(attacked, profile),
            }
    result = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "images": len(files),
        "classes": len(names),
        "accuracy": share(clean == labels, profile),
    }
    return result | ({"attack": attack} if attack else {})


def target_number(name: str, names: Sequence[str]) -> int:
    """Number of the class that the attack is to evoke, by its name or number."""
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    if name not in names:
        numbers = f"0 to {len(names) - 1}"
        raise SpecError(f"--target: {name!r} (allowed: a class name of the profile, {numbers})")
    return names.index(name)


def twin(trigger: Trigger, switches: Switches, side: int, seed: int) -> View:
    """What makes the triggered twin of an image file."""
    if trigger.name == "wanet":
        print("warning: wanet warps by this project's field, not the model's", file=sys.stderr)

    def view(data: bytes, number: int) -> NDArray[np.uint8]:
        image = decode_image(data, side, switches.trigger_geometry)
        return stamp(trigger, switches, image, keyed_rng("evaluation", seed, 0, number)).image

    return view


def classes(
    files: Sequence[ValidationImage], view: View, model: CLIP, classifier: Float[Tensor, "D C"]
) -> NDArray[np.int64]:
    """Predicted classes of the images as `view` shows them, (N,)."""

    def seen(number: int) -> NDArray[np.uint8]:
        path = files[number].path
        try:
            return view(path.read_bytes(), number)
        except ImageError as error:
            raise ImageError(f"{path.name}: {error.reason}") from None

    predicted = []
    with ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(files), IMAGE_BATCH):
            numbers = range(begin, min(begin + IMAGE_BATCH, len(files)))
            batch = torch.from_numpy(np.stack([*pool.map(seen, numbers)]))
            batch = batch.to(classifier.device)
            predicted.append(predict(model, batch, classifier).cpu().numpy())
    return np.concatenate(predicted)


def share(bits: NDArray[np.bool_], profile: Profile) -> dict[str, Any]:
    """Counts, fraction and Wilson interval."""
    count, total, confidence = int(bits.sum()), len(bits), profile.evaluate.confidence
    return {
        "count": count,
        "total": total,
        "fraction": count / total,
        "interval": list(wilson(count, total, confidence)),
        "confidence": confidence,
    }
