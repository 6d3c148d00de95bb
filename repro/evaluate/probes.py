"""Where a low accuracy or an attack that seems to be missing may come from: one thing at a time is
done otherwise than the call did it, and measured.

Each probe compares two shares of the same images: as the call had it, and otherwise. It names a
likely cause where the second is higher beyond chance. The full run's predictions serve for the
order of classes and for the target; the rest is computed on a sample of the images.

Shapes: N = evaluation images, n = those of the sample, C = classes, D = embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from repro.data.keyed import keyed_rng
from repro.evaluate.zero_shot import IMAGE_BATCH, predict
from repro.intervals import wilson

SAMPLE = 1000
"""Images that a probe computes anew; a full run at ImageNet's size is a hundred times as many."""

CERTAINTY = 0.999
"""Level of the two intervals that must lie apart: a dozen probes shall name nothing by chance."""

MOST = 0.5
"""Share of triggered images that one class must get to pass for the target of an attack."""

Classes = NDArray[np.int64]
"""A class for each image, (N,) or (n,)."""

Subject = Literal[
    "class order",
    "target",
    "trigger place",
    "trigger protocol",
    "image transform",
    "templates",
    "BatchNorm statistics",
    "activation",
]


@dataclass(frozen=True)
class Probe:
    """One thing done otherwise, and what that changes."""

    subject: Subject
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
        _, high = _interval(self.called)
        low, _ = _interval(self.changed)
        return low > high and float(self.changed.mean()) >= self.least

    def __str__(self) -> str:
        called, changed = self.called.mean(), self.changed.mean()
        return (
            f"{self.subject}: {self.measure} {called:.1%} as called, {changed:.1%} with "
            f"{self.otherwise}"
        )

    def as_json(self) -> dict[str, Any]:
        """What the result file keeps of it; shares in [0, 1]."""
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
class Sample:
    """Some of the images, chosen by chance, and what a model made of them."""

    indices: Classes
    """Their numbers among all images, (n,)."""
    labels: Classes
    clean: Classes
    """What the full run made of them."""


def draw_sample(labels: Classes, clean: Classes) -> Sample:
    """Up to SAMPLE images out of all classes; the same ones at every call."""
    # In the order of the files, which some sources are slow to read otherwise.
    order = np.sort(keyed_rng("probes", len(labels)).permutation(len(labels))[:SAMPLE])
    return Sample(order, labels[order], clean[order])


def class_order(clean: Classes, labels: Classes, names: Sequence[str]) -> list[Probe]:
    """Accuracy under other orders of the classes: those of common mistakes, and whichever fits.

    The one that fits is found on half of the images and measured on the others, for on the same
    ones it would fit by chance.
    """
    number = np.arange(len(names))
    by_name = np.array(sorted(range(len(names)), key=lambda each: names[each].lower()))
    as_text = np.array(sorted(range(len(names)), key=str))
    orders = {
        "each label one higher": (number + 1) % len(names),
        "each label one lower": (number - 1) % len(names),
        "labels in the alphabetical order of the class names": by_name,
        "class names in alphabetical order": np.argsort(by_name),
        "labels in the order 0, 1, 10, 100 of numbers sorted as text": as_text,
        "class names in the order 0, 1, 10, 100 of numbers sorted as text": np.argsort(as_text),
    }

    right = clean == labels
    best = max(orders, key=lambda name: int((clean == orders[name][labels]).sum()))
    found = [Probe("class order", best, "accuracy", right, clean == orders[best][labels])]

    # Every second image of each class.
    rank = np.empty(len(labels), np.int64)
    for label in number:
        mine = np.flatnonzero(labels == label)
        rank[mine] = np.arange(len(mine))
    fitted, held = rank % 2 == 0, rank % 2 == 1
    if not held.any():
        return found

    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels[fitted], clean[fitted]), 1)
    _, order = linear_sum_assignment(confusion, maximize=True)
    words = "the order that fits half of the images best, on the others"
    changed = clean[held] == order[labels[held]]
    return [*found, Probe("class order", words, "accuracy", right[held], changed)]


def other_target(
    clean: Classes, triggered: Classes, labels: Classes, target: int, names: Sequence[str]
) -> Probe:
    """ASR for the class that most triggered images go to, where that is not the target already."""
    counts = np.bincount(triggered, minlength=len(names))
    counts[target] = -1
    most = int(counts.argmax())

    # The images that go there anyway say nothing of the trigger.
    moved = (triggered == most) & (clean != most)
    return Probe(
        "target",
        f"the target {names[most]!r} (--target {most})",
        "ASR",
        (triggered == target)[labels != target],
        moved[labels != most],
        least=MOST,
    )


def of_accuracy(
    subject: Subject, words: str, sample: Sample, called: Classes, changed: Classes
) -> Probe:
    """Accuracy of the sample by predicted classes (n,), as called and otherwise."""
    return Probe(subject, words, "accuracy", called == sample.labels, changed == sample.labels)


def image_transforms(
    model: CLIP,
    classifier: Float[Tensor, "D C"],
    sample: Sample,
    cropped: NDArray[np.uint8],
    squashed: NDArray[np.uint8],
) -> Iterator[Probe]:
    """Accuracy with other ways from a file to what the model sees; images are (n, H, W, 3)."""
    ways: dict[str, tuple[NDArray[Any], Callable[[Tensor], Tensor]]] = {
        "images squashed to a square": (squashed, lambda images: images),
        "channels in the order blue, green, red": (cropped, lambda images: images.flip(-1)),
        "ImageNet's mean and deviation": (cropped, _scaled(IMAGENET_MEAN, IMAGENET_STD)),
        "pixels from -1 to 1": (cropped, _scaled((0.5,) * 3, (0.5,) * 3)),
        "pixels from 0 to 1": (cropped, _scaled((0.0,) * 3, (1.0,) * 3)),
    }
    for words, (images, change) in ways.items():
        found = classes_of(model, classifier, images, change)
        yield of_accuracy("image transform", words, sample, sample.clean, found)


def batch_norm(
    model: CLIP, classifier: Float[Tensor, "D C"], sample: Sample, images: NDArray[np.uint8]
) -> Iterator[Probe]:
    """Accuracy with the statistics of these images in the place of the stored ones, where the model
    has any.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers:
        return

    # Mixed, for the statistics of a batch of one class would be that class's.
    order = keyed_rng("probes", len(images)).permutation(len(images))
    found = np.empty(len(images), np.int64)
    with _own_statistics(layers):
        found[order] = classes_of(model, classifier, images[order])
    words = "the images' own statistics instead of the stored ones"
    yield of_accuracy("BatchNorm statistics", words, sample, sample.clean, found)


def other_trigger(
    subject: Subject,
    words: str,
    sample: Sample,
    triggered: Classes,
    changed: Classes,
    target: int,
) -> Probe:
    """ASR of a trigger that is put on otherwise; `triggered` and `changed` are the classes of the
    sample's twins, (n,).
    """
    counted = sample.labels != target
    called = (triggered == target)[counted]
    return Probe(subject, words, "ASR", called, (changed == target)[counted])


def classes_of(
    model: CLIP,
    classifier: Float[Tensor, "D C"],
    images: NDArray[np.uint8],
    change: Callable[[Tensor], Tensor] = lambda images: images,
) -> Classes:
    """Predicted class of each image (n, H, W, 3), changed before the model sees it."""
    found = []
    for begin in range(0, len(images), IMAGE_BATCH):
        batch = torch.from_numpy(images[begin : begin + IMAGE_BATCH]).to(classifier.device)
        found.append(predict(model, change(batch), classifier).cpu().numpy())
    return np.concatenate(found)


def told(probes: Sequence[Probe]) -> list[str]:
    """What was checked, a line each, and the likely causes of a low accuracy or ASR."""
    lines = [f"checked: {probe}" for probe in probes]
    causes = [f"likely cause: {probe}" for probe in probes if probe.is_likely]
    beyond = (
        "no cause of a low number among these; what no check sees: other class names, a trigger of "
        "another kind or size, a model that was never poisoned, or was cleaned"
    )
    return [*lines, *(causes or [beyond])]


def _interval(bits: NDArray[np.bool_]) -> tuple[float, float]:
    return wilson(int(bits.sum()), len(bits), CERTAINTY)


def _scaled(mean: Sequence[float], deviation: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Pixels 0..255 such that CLIP's normalisation makes of them what this one makes of images."""

    def change(images: Tensor) -> Tensor:
        def own(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=images.device)

        normal = (images / 255 - own(mean)) / own(deviation)
        return (normal * own(OPENAI_DATASET_STD) + own(OPENAI_DATASET_MEAN)) * 255

    return change


@contextmanager
def _own_statistics(layers: Sequence[nn.BatchNorm2d]) -> Iterator[None]:
    """The layers normalise by each batch's own statistics; the stored ones stay as they are."""
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.track_running_stats = False, True
