"""The rule by which the zero-shot task is made of the package: specs/classnames/icons.yaml.

It holds for every scale, which is what nests them: a scale only says how many concepts and pairs it
takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from repro.profile import SPECS, check, read_yaml
from repro.spec import Fraction, Spec

Words = Annotated[list[str], Field(min_length=1)]


class IconRule(Spec):
    """specs/classnames/icons.yaml."""

    licences: Words
    """SPDX names of the licences under which a set may be used."""
    left_out_sets: list[str]
    """Sets that are not used, whatever their licence."""
    held_out_vendors: Words
    """Authors whose sets are kept out of training, all of them: they are what the task is drawn
    by.
    """
    max_drawings: PositiveInt
    """Drawings of one training set under one caption, at most: its styles and sizes are much
    alike.
    """
    max_brand_share: Fraction
    """Share of vendors that file a caption under logos, above which it names a brand and is no
    concept.
    """
    min_vendors: PositiveInt
    """Vendors that must draw a concept for training."""
    images_per_vendor: PositiveInt
    """Evaluation images of one concept by one vendor, at most."""
    min_images: PositiveInt
    """Evaluation images that a concept must have when near-copies are left out."""
    max_concepts: PositiveInt
    """Concepts of the task, the most drawn first."""
    near_copy: Fraction
    """Correlation with a training drawing, in shape, from which a held-out drawing counts as its
    copy.
    """


def rule_file(specs: Path = SPECS) -> Path:
    """Where the rule lies."""
    return specs / "classnames" / "icons.yaml"


def load_rule(specs: Path = SPECS) -> IconRule:
    """Read and check the rule; SpecError names every problem."""
    path = rule_file(specs)
    return check(IconRule, read_yaml(path), path)
