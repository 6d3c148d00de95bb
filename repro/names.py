"""Names of the things that a study combines, with their labels: what specifications, command line,
plan and report share. Nothing is imported from `repro`, so that every command can read them.

Implementations stand in lists of their own under the same names: `OBJECTIVES` in
repro/train/objectives.py, `DEFENCES` in repro/train/defences.py, `TRIGGERS` in
repro/data/triggers.py.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Dataset = Literal["cc3m", "cc6m"]
Objective = Literal["mmcl", "mmcl_ssl"]
"""Losses by which models are pre-trained."""
Loss = Literal["mmcl", "ssl", "mmcl_ssl"]
"""Losses by which models are trained: `Objective`, and those of cleaning alone."""
CleanSize = Literal["100k", "200k"]
TriggerName = Literal["badnet", "blended", "sig", "wanet", "yellow"]
DefenceName = Literal["cleanclip", "shrink_and_perturb", "deep_clustering"]

DATASETS: dict[Dataset, str] = {"cc3m": "CC3M", "cc6m": "CC6M"}
CLEAN_SIZES: dict[CleanSize, str] = {"100k": "100K", "200k": "200K"}


class LossName(NamedTuple):
    """What is known of a loss without its implementation."""

    label: str
    views: int
    """Views of every pair that a step encodes: 2 with the augmented one."""


LOSSES: dict[Loss, LossName] = {
    "mmcl": LossName("MMCL", 1),
    "ssl": LossName("SSL", 2),
    "mmcl_ssl": LossName("MMCL + SSL", 2),
}

TRIGGERS: dict[TriggerName, str] = {
    "badnet": "square of Gaussian noise",
    "blended": "uniform noise blended in",
    "sig": "sine added along the width",
    "wanet": "warp by a fixed random field",
    "yellow": "yellow square",
}


class Setting(NamedTuple):
    """A number that a defence takes; specifications name it where it is not the default."""

    default: float
    least: float = 0.0
    most: float = math.inf
    whole: bool = False
    """Only whole numbers are allowed."""


class DefenceNames(NamedTuple):
    """What is known of a defence without its implementation."""

    label: str
    sees: Literal["nothing", "clean images", "clean pairs", "training pairs"]
    """Data that the defence works on; tables compare those that see the same."""
    settings: dict[str, Setting]
    changes_start: bool = False
    """Whether it changes the weights before the first evaluation."""


DEFENCES: dict[DefenceName, DefenceNames] = {
    # Finetuning by the loss of the run; with `mmcl_ssl` it is CleanCLIP as published.
    "cleanclip": DefenceNames("finetuning", "clean pairs", {"ssl_weight": Setting(1.0)}),
    "shrink_and_perturb": DefenceNames(
        "shrink and perturb",
        "clean pairs",
        {"shrink": Setting(1.0, most=1.0), "perturb": Setting(0.0)},
        changes_start=True,
    ),
    "deep_clustering": DefenceNames(
        "deep clustering",
        "clean pairs",
        {"clusters": Setting(100, least=1, whole=True), "weight": Setting(1.0)},
    ),
}
"""`cleanclip` with default settings is what a run has that names no defence."""
