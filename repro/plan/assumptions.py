"""specs/plan.yaml: what a forecast assumes where nothing was measured."""

from collections import Counter
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from repro.data.cache import SHARE_OF_MEMORY
from repro.profile import SPECS, check, classnames_file, load_classnames, read_yaml
from repro.spec import Dataset, Fraction, Precision, Profile, Rate, RunSpec, ShardSource, Spec

Range = Annotated[tuple[Rate, Rate], Field(strict=False)]
"""Low and high."""
Shares = Annotated[tuple[Fraction, Fraction], Field(strict=False)]
Span: TypeAlias = np.ndarray
"""Low end, middle and high end, (3,)."""
SourceKind = Literal["webdataset", "icons", "scenes"]
DeviceName = Literal["a100", "h100", "rtx3090", "core"]


def span_of(ends: tuple[float, float]) -> Span:
    """Low end, middle and high end of a range."""
    low, high = ends
    return np.array([low, (low + high) / 2, high])


class Rates(NamedTuple):
    """FLOP/s of a device in the arithmetic of a run."""

    image: Span
    """Of the image tower, forward and backward."""
    text: Span
    """Of the text tower, likewise."""
    evaluation: Span
    """Of the image tower in an evaluation."""


class Device(Spec):
    """A GPU, or one processor core."""

    name: str
    memory_bytes: PositiveInt
    watts: PositiveInt
    peak_tflops: dict[Precision, Rate]
    image: dict[Precision, Range]
    """Share of the peak that the image tower reaches with the fastest kernels, uncompiled."""
    text: dict[Precision, Range]
    """The same of the text tower, for captions that are not in parts."""
    text_in_parts: Fraction
    """Factor on it where the captions of a batch pass in four parts."""
    deterministic: Fraction
    """Factor on all with deterministic kernels."""
    compiled: Range
    """Factor on training with compiled kernels."""
    evaluation: dict[Literal["plain", "folded"], Range]
    """Factor on the image tower in an evaluation: as it is, or compiled with BatchNorm folded into
    the convolutions."""
    loaders: NonNegativeInt
    """Processes that make its batches; 0 where the device itself makes them."""

    def rates(self, spec: RunSpec) -> Rates:
        """FLOP/s of training and evaluation in the arithmetic of the run."""
        fast = self.deterministic if spec.deterministic else 1.0
        peak = self.peak_tflops[spec.precision] * 1e12 * fast
        compiled = span_of(self.compiled) if spec.compile else np.ones(3)
        image = span_of(self.image[spec.precision]) * peak * compiled
        text = span_of(self.text[spec.precision]) * peak * compiled
        if spec.text_parts > 1:
            text *= self.text_in_parts

        peak = self.peak_tflops[spec.evaluation_precision] * 1e12 * fast
        plain = span_of(self.image[spec.evaluation_precision]) * peak
        factor = self.evaluation["folded" if spec.compile else "plain"]
        return Rates(image=image, text=text, evaluation=plain * span_of(factor))


class Assumptions(Spec):
    """The content of specs/plan.yaml; sources stand there as comments."""

    devices: dict[DeviceName, Device]
    caption_tokens: dict[SourceKind, dict[Dataset, PositiveInt]]
    """Tokens to which a training batch is trimmed, by kind of source."""
    caption_tokens_in_parts: dict[SourceKind, dict[Dataset, PositiveInt]]
    """Their mean over captions where `text_parts` is four, with what parts are padded by."""
    given_up: dict[Dataset, Shares]
    """Share of the cleaning runs that `stop_early` ends."""
    pair_bytes: dict[SourceKind, PositiveInt]
    """Disk of a training pair, image and caption."""
    mirror_pair_bytes: dict[Dataset, PositiveInt]
    image_bytes: dict[SourceKind, PositiveInt]
    """Disk of an evaluation image."""
    decode_seconds: Range
    """Of a core, to read and decode an image, for each million pixels of the model's size."""
    augment_seconds: Rate
    text_seconds: Rate
    host_memory_bytes: PositiveInt
    """Memory of a job. A set of images that fits SHARE_OF_MEMORY of it is decoded once
    (repro/data/cache.py), any other at every step."""
    compile_seconds: Range
    """Of a process that trains compiled, for each number of views."""
    start_seconds: dict[SourceKind, Range]
    """From the start of a process to its first step, and what its first evaluation takes longer."""
    power_usage_effectiveness: Annotated[FiniteFloat, Field(ge=1)]
    """Power of the data centre over that of its computers."""
    kg_co2e_per_kwh: Fraction

    def decoded_once(self, images: int, pixels: int) -> bool:
        """Whether so many images of `pixels` pixels lie decoded in a memory map."""
        return 3 * pixels * images <= SHARE_OF_MEMORY * self.host_memory_bytes

    def host_seconds(self, pixels: int, views: int, decoded: bool) -> tuple[float, float]:
        """Core-seconds to make a pair ready with images of `pixels` pixels; `decoded`: these lie in
        a memory map.
        """
        # The first view is the image as it is, with tokens made once for all epochs.
        millions = pixels / 1e6
        augment = (views - 1) * (self.augment_seconds * millions + self.text_seconds)
        if decoded:
            return augment, augment
        low, high = self.decode_seconds
        return low * millions + augment, high * millions + augment


def load_assumptions() -> Assumptions:
    """The checked content of specs/plan.yaml."""
    path = SPECS / "plan.yaml"
    return check(Assumptions, read_yaml(path), path)


def num_evaluation_images(profile: Profile) -> int:
    """Images of the zero-shot task: of every class as many as the source has."""
    source = profile.data.source
    names = load_classnames(profile)
    if isinstance(source, ShardSource):
        return len(names) * source.images_per_class

    # The committed list has a line for each evaluation image: its class, and its file.
    listed = classnames_file("icons-images").read_text(encoding="utf-8").splitlines()
    of_all = Counter(line.partition("\t")[0] for line in listed)
    counts = [of_all[name] for name in names]
    if limit := source.images_per_concept:
        counts = [min(count, limit) for count in counts]
    return sum(counts)
