"""specs/plan.yaml: what a forecast takes for granted where nothing was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt

from repro.profile import SPECS, check, count_icon_images, load_classnames, read_yaml
from repro.spec import Fraction, IconSource, Profile, Rate, ShardSource, Spec

ASSUMPTIONS = "plan.yaml"
SourceKind = Literal["webdataset", "icons"]


class HostCost(Spec):
    """What a core takes to make a training pair ready; images of any size, by their area."""

    decode: Rate
    """Seconds to read, check and decode a JPEG, for each million pixels."""
    augment: Rate
    """Seconds to augment an image, for each million pixels."""
    text: Rate
    """Seconds to augment a caption and make tokens of it."""

    def pair(self, pixels: int, *, decoded: bool, views: int) -> float:
        """Core-seconds of a pair with images of `pixels` pixels; `decoded`: its pixels lie in a
        memory map.
        """
        megapixels = pixels / 1e6
        seconds = 0.0 if decoded else self.decode * megapixels

        # The first view is the image as it is, with tokens made once for all epochs.
        augmented = views - 1
        return seconds + augmented * (self.augment * megapixels + self.text)


class Assumptions(Spec):
    """The content of specs/plan.yaml."""

    caption_tokens: dict[SourceKind, PositiveInt]
    """Tokens to which a training batch is trimmed, by kind of source."""
    pair_bytes: dict[SourceKind, PositiveInt]
    """Disk of a training pair, image and caption."""
    image_bytes: dict[SourceKind, PositiveInt]
    """Disk of an evaluation image."""
    device: str
    """The accelerator that the next fields describe."""
    peak_tflops: dict[Literal["fp32", "tf32", "bf16"], Rate]
    utilisation: Fraction
    """Share of the peak at the run's precision that training and evaluation reach."""
    cores_per_device: PositiveInt
    """Processor cores that make pairs ready for a device."""
    host_seconds: HostCost
    cache_bytes: PositiveInt
    """Disk for decoded images: a set that fits is decoded once, any other at every step."""
    device_watts: PositiveInt
    core_watts: PositiveInt
    power_usage_effectiveness: Annotated[FiniteFloat, Field(ge=1)]
    """Power of the data centre over that of its computers."""
    kg_co2e_per_kwh: Fraction
    start_seconds: PositiveInt
    """From the start of a training process to its first step."""
    record_seconds: Rate
    """Processor time that the Sacred record of a cleaning run takes."""


def load_assumptions(specs: Path = SPECS) -> tuple[Assumptions, dict[str, str]]:
    """The checked assumptions and, for each, the source that its comment names."""
    path = specs / ASSUMPTIONS
    commented = re.findall(r"^(\w+): .+? +# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return check(Assumptions, read_yaml(path), path), dict(commented)


def num_evaluation_images(profile: Profile) -> int:
    """Images of the zero-shot task: of every class as many as the source has."""
    source, names = profile.data.source, load_classnames(profile)
    match source:
        case ShardSource():
            return len(names) * source.images_per_class
        case IconSource():
            counts = count_icon_images()
            limit = source.images_per_concept
            drawn = (counts[name] for name in names)
            return sum(drawn if limit is None else (min(count, limit) for count in drawn))
