"""specs/plan.yaml: what a forecast assumes where nothing was measured."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from repro.data.cache import SHARE_OF_MEMORY
from repro.files import read_json
from repro.profile import SPECS, check, read_yaml
from repro.spec import Dataset, Fraction, Precision, Rate, RunSpec, Spec

Range = Annotated[tuple[Rate, Rate], Field(strict=False)]
"""Low and high."""
Shares = Annotated[tuple[Fraction, Fraction], Field(strict=False)]
Span: TypeAlias = np.ndarray
"""Low end, middle and high end, (3,)."""
SourceKind = Literal["webdataset", "icons", "scenes"]
DeviceName = Literal["a100", "h100", "rtx3090", "core"]
MEASURED = Path("work/gpu-check.json")
"""What `make gpu-check` writes: `{"device": name, "memory_bytes": of it, "flops": {arithmetic:
{"image": FLOP/s, "text": ..., "evaluation": ...}}}`.
"""


def span_of(ends: tuple[float, float]) -> Span:
    """Low end, middle and high end of a range."""
    low, high = ends
    return np.array([low, (low + high) / 2, high])


def arithmetic(precision: str, spec: RunSpec) -> str:
    """What the speed of a GPU depends on, in words, such as `bf16 compiled fast`."""
    words: list[str] = [precision]
    if spec.compile:
        words.append("compiled")
    if not spec.deterministic:
        words.append("fast")
    return " ".join(words)


class Rates(NamedTuple):
    """FLOP/s of a device in the arithmetic of a run."""

    image: Span
    """Of the image tower, forward and backward."""
    text: Span
    """Of the text tower, likewise."""
    evaluation: Span
    """Of both towers in an evaluation."""


class Measured(Spec):
    """FLOP/s of training by tower, and of evaluations."""

    image: PositiveFloat
    text: PositiveFloat
    evaluation: PositiveFloat


class Device(Spec):
    """A GPU, or one processor core."""

    memory_bytes: PositiveInt
    image: dict[Precision, Range] = Field(default_factory=dict)
    """TFLOP/s of the image tower in training, eager, with the fastest kernels."""
    text: dict[Precision, Range] = Field(default_factory=dict)
    """The same of the text tower, for captions that are not in parts."""
    text_in_parts: Fraction = 1.0
    """Factor on it where the captions of a batch pass in parts."""
    update_seconds: Rate | None = None
    """Of an optimizer step for each weight, where `image` leaves it out."""
    measured: dict[str, Measured] = Field(default_factory=dict)
    """By `arithmetic`, in place of the assumptions."""

    def knows(self, spec: RunSpec) -> bool:
        """Whether there are rates in the arithmetic of the run."""
        if self.measured:
            same = spec.evaluation_precision == spec.precision
            return same and arithmetic(spec.precision, spec) in self.measured
        return {spec.precision, spec.evaluation_precision} <= self.image.keys()


class Assumptions(Spec):
    """The content of specs/plan.yaml; sources stand there as comments."""

    devices: dict[DeviceName, Device]
    deterministic: Fraction
    compiled: Range
    folded: Range
    caption_tokens: dict[SourceKind, dict[Dataset, PositiveInt]]
    """Tokens to which a training batch is trimmed, by kind of source."""
    caption_tokens_in_parts: dict[SourceKind, dict[Dataset, PositiveInt]]
    """Their mean over captions where `text_parts` is four, with what parts are padded by."""
    prompt_tokens: dict[SourceKind, PositiveInt]
    given_up: dict[Dataset, Shares]
    """Share of the cleaning runs that `stop_early` ends."""
    kept_bytes: Rate
    """That backward keeps of an input for each FLOP of its forward pass, in float32."""
    compile_seconds: Range
    """Of a process that trains compiled, for each number of views."""
    start_seconds: dict[SourceKind, Range]
    """From the start of a process to its first step, and what its first evaluation takes longer."""
    pair_bytes: dict[SourceKind, PositiveInt]
    """Disk of a training pair, image and caption."""
    image_bytes: dict[SourceKind, PositiveInt]
    """Disk of an evaluation image."""
    host_memory_bytes: PositiveInt
    """Memory of a job. A set of images that fits SHARE_OF_MEMORY of it is decoded once
    (repro/data/cache.py), any other at every step."""

    def rates(self, device: Device, spec: RunSpec) -> Rates:
        """FLOP/s of a device that knows the arithmetic of the run."""
        if device.measured:
            of = device.measured[arithmetic(spec.precision, spec)]
            return Rates(*(np.full(3, rate) for rate in (of.image, of.text, of.evaluation)))

        fast = 1e12 * (self.deterministic if spec.deterministic else 1.0)
        compiled = span_of(self.compiled) if spec.compile else np.ones(3)
        folded = span_of(self.folded) if spec.compile else np.ones(3)
        parts = device.text_in_parts if spec.text_parts > 1 else 1.0
        return Rates(
            image=span_of(device.image[spec.precision]) * fast * compiled,
            text=span_of(device.text[spec.precision]) * fast * compiled * parts,
            evaluation=span_of(device.image[spec.evaluation_precision]) * fast * folded,
        )

    def decoded_once(self, images: int, pixels: int) -> bool:
        """Whether so many images of `pixels` pixels lie decoded in a memory map."""
        return 3 * pixels * images <= SHARE_OF_MEMORY * self.host_memory_bytes


@cache
def load_assumptions() -> Assumptions:
    """The checked content of specs/plan.yaml."""
    path = SPECS / "plan.yaml"
    return check(Assumptions, read_yaml(path), path)


def gpus(assumptions: Assumptions) -> dict[str, Device]:
    """The assumed GPUs, and the one that `make gpu-check` measured here, by name."""
    found: dict[str, Device] = {}
    for name, device in assumptions.devices.items():
        if name != "core":
            found[name] = device
    if content := read_json(MEASURED):
        fields = {"memory_bytes": content["memory_bytes"], "measured": content["flops"]}
        found[f"{content['device']}, measured"] = check(Device, fields, MEASURED)
    return found
