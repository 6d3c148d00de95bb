"""specs/plan.yaml: what a forecast assumes where nothing was measured."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from repro.profile import SPECS, check, count_icon_images, load_classnames, read_yaml
from repro.spec import Dataset, Fraction, Precision, Profile, Rate, RunSpec, ShardSource, Spec

Range = Annotated[tuple[Rate, Rate], Field(strict=False)]
"""Low and high."""
SourceKind = Literal["webdataset", "icons"]
DeviceName = Literal["a100", "h100", "core"]


class Device(Spec):
    """A GPU, or one processor core."""

    name: str
    memory_bytes: PositiveInt
    watts: PositiveInt
    peak_tflops: dict[Precision, Rate]
    utilisation: dict[Precision, Range]
    """Share of the peak that training and evaluation reach with the fastest kernels, uncompiled."""
    deterministic: Fraction
    """Factor on it with deterministic kernels."""
    compiled: Rate
    """Factor on it with compiled kernels."""
    loaders: NonNegativeInt
    """Processes that make its batches; 0 where the device itself makes them."""

    def flops(self, precision: Precision, spec: RunSpec) -> tuple[float, float]:
        """FLOP/s in the arithmetic of the run, low and high."""
        peak = self.peak_tflops[precision] * 1e12
        peak *= self.deterministic if spec.deterministic else 1.0
        peak *= self.compiled if spec.compile else 1.0
        low, high = self.utilisation[precision]
        return low * peak, high * peak


class Assumptions(Spec):
    """The content of specs/plan.yaml; sources stand there as comments."""

    devices: dict[DeviceName, Device]
    caption_tokens: dict[SourceKind, PositiveInt]
    """Tokens to which a training batch is trimmed, by kind of source."""
    caption_tokens_in_parts: dict[SourceKind, PositiveInt]
    """Their mean over captions where `text_parts` is four."""
    given_up: dict[Dataset, Range]
    """Share of the cleaning runs that `stop_early` ends."""
    pair_bytes: dict[SourceKind, PositiveInt]
    """Disk of a training pair, image and caption."""
    mirror_pair_bytes: PositiveInt
    image_bytes: dict[SourceKind, PositiveInt]
    """Disk of an evaluation image."""
    decode_seconds: Range
    """Of a core, to read and decode an image, for each million pixels of the model's size."""
    augment_seconds: Rate
    text_seconds: Rate
    cache_bytes: PositiveInt
    """Disk for decoded images: a set that fits is decoded once, any other at every step."""
    start_seconds: dict[SourceKind, Range]
    """From the start of a process to its first step, and what its first evaluation takes longer."""
    power_usage_effectiveness: Annotated[FiniteFloat, Field(ge=1)]
    """Power of the data centre over that of its computers."""
    kg_co2e_per_kwh: Fraction

    def host_seconds(self, pixels: int, views: int, decoded: bool) -> tuple[float, float]:
        """Core-seconds to make a pair ready with images of `pixels` pixels; `decoded`: these lie in
        a memory map.
        """
        # The first view is the image as it is, with tokens made once for all epochs.
        millions = pixels / 1e6
        augment = (views - 1) * (self.augment_seconds * millions + self.text_seconds)
        low, high = (0.0, 0.0) if decoded else self.decode_seconds
        return low * millions + augment, high * millions + augment


def load_assumptions() -> Assumptions:
    """The checked content of specs/plan.yaml."""
    path = SPECS / "plan.yaml"
    return check(Assumptions, read_yaml(path), path)


def num_evaluation_images(profile: Profile) -> int:
    """Images of the zero-shot task: of every class as many as the source has."""
    source, names = profile.data.source, load_classnames(profile)
    if isinstance(source, ShardSource):
        return len(names) * source.images_per_class
    counts, limit = count_icon_images(), source.images_per_concept
    return sum(min(counts[name], limit or counts[name]) for name in names)
