"""Names of the things that a study combines, with their labels: what specifications, command line,
plan and report share. Nothing is imported from `repro`, so that every command can read them.

Text in `label(...)` is for people: the digest of the code that makes digits leaves it out.

Implementations stand in lists of their own under the same names: `OBJECTIVES` in
repro/train/objectives.py, `DEFENCES` in repro/train/defences.py, `TRIGGERS` in
repro/data/triggers.py.
"""

import math
from typing import Literal, NamedTuple, get_args

Dataset = Literal["cc3m", "cc6m"]
Objective = Literal["mmcl", "mmcl_ssl", "two_views", "image_ssl", "text_ssl", "ssl_unused"]
"""Losses by which models are pre-trained."""
Loss = Literal["mmcl", "ssl", "mmcl_ssl", "two_views", "image_ssl", "text_ssl", "ssl_unused"]
"""Losses by which models are trained: `Objective`, and those of cleaning alone."""
CleanSize = Literal["100k", "200k"]
TriggerName = Literal["badnet", "blended", "sig", "stripes", "wanet", "yellow"]
ImageViewName = Literal[
    "autoaugment", "crop_and_colour", "noise_and_erasing", "unaugmented", "mixed"
]
"""Augmentations of an image: `IMAGE_VIEWS` in repro/train/views/image.py."""
DefenceName = Literal[
    "cleanclip",
    "shrink_and_perturb",
    "deep_clustering",
    "crop_view",
    "noise_view",
    "mixed_views",
    "word_view",
    "reset_temperature",
    "fresh_head",
    "par",
    "par_view",
    "par_push",
    "ft_sam",
]


def label(text: str) -> str:
    """The text as it is."""
    return text


GRAPH_OBJECTIVES: tuple[Objective, ...] = ("mmcl", "mmcl_ssl")
"""Losses of the pre-trainings in dvc.yaml, the paper's."""
Protocol = Literal["authors", "paper"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
DATASETS: dict[Dataset, str] = {"cc3m": label("CC3M"), "cc6m": label("CC6M")}
CLEAN_SIZES: dict[CleanSize, str] = {"100k": label("100K"), "200k": label("200K")}


class LossName(NamedTuple):
    """What is known of a loss without its implementation."""

    label: str
    views: int
    """Views of every pair that a step encodes: 2 with the augmented one."""


LOSSES: dict[Loss, LossName] = {
    "mmcl": LossName(label("MMCL"), 1),
    "ssl": LossName(label("SSL"), 2),
    "mmcl_ssl": LossName(label("MMCL + SSL"), 2),
    "two_views": LossName(label("MMCL of both views"), 2),
    "image_ssl": LossName(label("MMCL + image SSL"), 2),
    "text_ssl": LossName(label("MMCL + text SSL"), 2),
    "ssl_unused": LossName(label("MMCL, SSL without gradient"), 2),
}

TRIGGERS: dict[TriggerName, str] = {
    "badnet": label("square of Gaussian noise"),
    "blended": label("uniform noise blended in"),
    "sig": label("sine added along the width"),
    "stripes": label("square of random vertical stripes"),
    "wanet": label("warp by a fixed random field"),
    "yellow": label("yellow square"),
}


class Setting(NamedTuple):
    """A number that a defence takes; specifications name it where it is not the default."""

    default: float
    least: float = 0.0
    most: float = math.inf


class DefenceNames(NamedTuple):
    """What is known of a defence without its implementation."""

    label: str
    settings: dict[str, Setting]
    sees: Literal["nothing", "clean images", "clean pairs", "training pairs"] = "clean pairs"
    """Data that the defence works on."""
    changes_start: bool = False
    """Whether it changes the weights before the first evaluation."""
    views: int | None = None
    """Views of every pair that a step encodes; None for those of the run's loss."""
    base_view: ImageViewName = "unaugmented"
    """Augmentation of the images themselves."""
    image_view: ImageViewName = "autoaugment"
    """Augmentation that makes the second view of an image."""
    text_view: str = "eda"
    """Augmentation for the second view of a caption, of `TEXT_VIEWS` in train/views/text.py."""
    retired: bool = False
    """Archived runs have it, and nothing trains by it any more."""


DEFENCES: dict[DefenceName, DefenceNames] = {
    # Finetuning by the loss of the run; with `mmcl_ssl` it is CleanCLIP as published.
    "cleanclip": DefenceNames(label("finetuning"), {"ssl_weight": Setting(1.0)}),
    "shrink_and_perturb": DefenceNames(
        label("shrink and perturb"),
        {"shrink": Setting(1.0, most=1.0), "perturb": Setting(0.0)},
        changes_start=True,
    ),
    "deep_clustering": DefenceNames(
        label("deep clustering"),
        {"clusters": Setting(100, least=1), "weight": Setting(1.0)},
        retired=True,
    ),
    "crop_view": DefenceNames(
        label("CleanCLIP, crops and colours"), {}, image_view="crop_and_colour"
    ),
    "noise_view": DefenceNames(
        label("CleanCLIP, noise and erasing"), {}, image_view="noise_and_erasing"
    ),
    # For who does not know which view the model was pre-trained with.
    "mixed_views": DefenceNames(
        label("CleanCLIP, one of three views a batch"), {}, image_view="mixed"
    ),
    "word_view": DefenceNames(
        label("CleanCLIP, words dropped and shuffled"), {}, text_view="shuffled"
    ),
    "reset_temperature": DefenceNames(
        label("CleanCLIP, temperature reset"), {}, changes_start=True
    ),
    "fresh_head": DefenceNames(label("CleanCLIP, new SSL head"), {}, views=2),
    "par": DefenceNames(
        label("PAR"),
        {"threshold": Setting(2.15, most=4.0)},
        views=1,
        base_view="noise_and_erasing",
    ),
    # PAR taken apart, for what it is in PAR that cleans.
    "par_view": DefenceNames(
        label("PAR, its view alone"), {}, views=1, base_view="noise_and_erasing"
    ),
    "par_push": DefenceNames(
        label("PAR, its push alone"), {"threshold": Setting(2.15, most=4.0)}, views=1
    ),
    # By the MMCL loss, whatever the loss of the run.
    "ft_sam": DefenceNames(label("FT-SAM"), {"radius": Setting(0.5)}, views=1),
}
"""`cleanclip` with default settings is what a run has that names no defence."""
