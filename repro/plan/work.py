"""What a study costs: the work that its specifications ask for, and the time that follows from rates.

Pure and without torch, so that the report can compare forecast and measurement. `repro.plan` counts the FLOPs and
`repro.calibrate` measures the rates. A pair-view is one view of one pair through both towers, forward and backward: the unit of
training work.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt

from repro.profile import (
    SPECS,
    check,
    clean_runs,
    count_icon_images,
    load_classnames,
    pretrain_runs,
    read_yaml,
)
from repro.spec import (
    EmojiSource,
    Fraction,
    IconSource,
    Profile,
    Rate,
    RunSpec,
    ShardSource,
    Spec,
)
from repro.train.schedule import evaluation_steps, num_steps

ASSUMPTIONS = "plan.yaml"
SourceKind = Literal["webdataset", "emoji", "icons"]


class Assumptions(Spec):
    """specs/plan.yaml: what a forecast takes for granted where nothing was measured."""

    caption_tokens: dict[SourceKind, PositiveInt]
    """Tokens to which a training batch is trimmed, by kind of source."""
    pair_bytes: dict[SourceKind, PositiveInt]
    """Disk of a training pair, image and caption."""
    image_bytes: dict[SourceKind, PositiveInt]
    """Disk of an evaluation image."""
    device: str
    """The accelerator that the three next fields describe."""
    peak_tflops: dict[Literal["fp32", "tf32", "bf16"], Rate]
    utilisation: Fraction
    """Share of the peak at the run's precision that training and evaluation reach."""
    device_watts: PositiveInt
    core_watts: PositiveInt
    power_usage_effectiveness: Annotated[FiniteFloat, Field(ge=1)]
    """Power of the data centre over that of its computers."""
    kg_co2e_per_kwh: Fraction
    start_seconds: PositiveInt
    """From the start of a training process to its first step."""


def load_assumptions(specs: Path = SPECS) -> tuple[Assumptions, dict[str, str]]:
    """The checked assumptions and, for each, the source that its comment names."""
    path = specs / ASSUMPTIONS
    sources = dict(
        re.findall(r"^(\w+): .+? +# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    return check(Assumptions, read_yaml(path), path), sources


def num_evaluation_images(profile: Profile) -> int:
    """Images of the zero-shot task: of every class as many as the source has."""
    source, names = profile.data.source, load_classnames(profile)
    match source:
        case ShardSource():
            return len(names) * source.images_per_class
        case IconSource():
            counts = count_icon_images()
            limit = source.images_per_concept
            return sum(
                counts[name] if limit is None else min(counts[name], limit) for name in names
            )
        case EmojiSource():  # the one drawing that is held out
            return len(names)


@dataclass(frozen=True, slots=True)
class Work:
    """What one training run does."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    evaluations: int
    """Evaluations of its own: the cleaning runs of one model share that of the start model, and the first one has it."""

    @property
    def views(self) -> int:
        """Views of each pair that go through the towers."""
        return self.spec.num_views

    @property
    def pair_views(self) -> int:
        """Training work: one view of one pair, forward and backward."""
        return self.pairs * self.views

    @property
    def kind(self) -> str:
        """What the speed of a step depends on, besides the device."""
        return kind_of(self.spec)


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take the same time a pair: stage, loss and batch."""
    return f"{spec.stage} {spec.loss} x{spec.schedule.global_batch_size}"


def work_of(profile: Profile) -> list[Work]:
    """The work of every run of the profile, pre-trainings first."""
    started: set[tuple[str, int]] = set()
    result = []
    for spec in [*pretrain_runs(profile), *clean_runs(profile)]:
        steps_per_epoch = _num_rows(profile, spec) // spec.schedule.global_batch_size
        evaluations = len(evaluation_steps(spec, steps_per_epoch))
        start = (spec.cell, spec.seed)
        if spec.stage == "clean" and start in started:
            evaluations -= 1
        if spec.stage == "clean":
            started.add(start)
        pairs = num_steps(spec, steps_per_epoch) * spec.schedule.global_batch_size
        result.append(Work(spec, pairs, evaluations))
    return result


def _num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped (repro/data/poison.py)."""
    if spec.clean_size is not None:
        return profile.data.cleaning_sizes[spec.clean_size] + (
            spec.mitigation.poisons_left if spec.mitigation else 0
        )
    held_out = (
        max(profile.data.cleaning_sizes.values())
        if profile.switches.cleaning_pairs == "held_out"
        else 0
    )
    return profile.data.num_pairs[spec.dataset] - profile.data.num_validation - held_out


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds that one device (a GPU, or a core) takes."""

    pair_view: Mapping[str, float]
    """For one pair-view, by `Work.kind`, waiting for data included."""
    evaluation: float
    start: float
    """From the start of a process to its first step."""

    def seconds(self, work: Work) -> float:
        """Device time of a run from its first step to its last evaluation."""
        return work.pair_views * self.pair_view[work.kind] + work.evaluations * self.evaluation


def wall_seconds(
    works: Sequence[Work], rates: Rates, devices: int, *, side_by_side: bool
) -> dict[str, float]:
    """Wall time of the stages `pretrain` and `clean` on `devices` GPUs or cores, by the launcher's rules.

    Cores and clusters take the runs of all models `side_by_side`, one device each, the longest first. On GPUs the models come
    one after another: a pre-training takes all devices, as far as its batch can be split, the cleaning runs of a model one each.
    Communication between devices is left out.
    """
    pretrainings = [work for work in works if work.spec.stage == "pretrain"]
    cleanings: dict[str, list[Work]] = defaultdict(list)
    for work in works:
        if work.spec.stage == "clean":
            cleanings["all" if side_by_side else work.spec.cell].append(work)
    if side_by_side:
        pretrain = makespan([rates.start + rates.seconds(work) for work in pretrainings], devices)
    else:
        pretrain = sum(
            rates.start + rates.seconds(work) / _ranks(work.spec, devices) for work in pretrainings
        )
    clean = sum(
        makespan(list(map(rates.seconds, runs)), devices) + rates.start * _packs(runs, devices)
        for runs in cleanings.values()
    )
    return {"pretrain": pretrain, "clean": clean}


def _packs(works: list[Work], devices: int) -> int:
    """Processes that a device starts one after another at most: runs on the same data share one."""
    return min(len({work.spec.dataset for work in works}), -(-len(works) // devices))


def makespan(durations: list[float], devices: int) -> float:
    """Time until the last of some runs ends when each goes, longest first, to the device with the least to do."""
    busy = [0.0] * devices
    for duration in sorted(durations, reverse=True):
        busy[busy.index(min(busy))] += duration
    return max(busy)


def _ranks(spec: RunSpec, devices: int) -> int:
    """Ranks of a pre-training: what divides its BatchNorm groups, at most one a device."""
    groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
    return max(ranks for ranks in range(1, groups + 1) if groups % ranks == 0 and ranks <= devices)
