"""What a profile has to do: the pairs and evaluations of every run, from its specifications alone.

Pure and without torch, so that the report can compare forecast and measurement. A pair-view is one
view of one pair through both towers, forward and backward: the unit of training work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repro.profile import clean_runs, pretrain_runs
from repro.spec import Profile, RunSpec
from repro.train.schedule import evaluation_steps, num_steps


@dataclass(frozen=True, slots=True)
class Work:
    """What one training run does."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    evaluations: int
    """Evaluations of its own: the cleaning runs of one model share that of the start model, and the
    first one has it.
    """

    @property
    def pair_views(self) -> int:
        """Training work: one view of one pair, forward and backward."""
        return self.pairs * self.spec.num_views

    @property
    def kind(self) -> str:
        """What the speed of a step depends on, besides the device."""
        return kind_of(self.spec)


@dataclass(frozen=True, slots=True)
class Rates:
    """Device-seconds that one kind of run was seen to take."""

    pair_view: Mapping[str, float]
    """Of the training of one pair-view, by `Work.kind`."""
    evaluation: float

    def seconds(self, work: Work) -> float:
        """Of a run from its first step to its last evaluation."""
        return work.pair_views * self.pair_view[work.kind] + work.evaluations * self.evaluation


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take the same time a pair: stage, loss and batch."""
    return f"{spec.stage} {spec.loss} x{spec.schedule.global_batch_size}"


def work_of(profile: Profile) -> list[Work]:
    """The work of every run of the profile, pre-trainings first."""
    started: set[tuple[str, int]] = set()
    result = []
    for spec in [*pretrain_runs(profile), *clean_runs(profile)]:
        steps_per_epoch = num_rows(profile, spec) // spec.schedule.global_batch_size
        evaluations = len(evaluation_steps(spec, steps_per_epoch))

        # The start model of several cleaning runs is evaluated once.
        if spec.stage == "clean":
            start = (spec.cell, spec.seed)
            evaluations -= start in started
            started.add(start)

        pairs = num_steps(spec, steps_per_epoch) * spec.schedule.global_batch_size
        result.append(Work(spec, pairs, evaluations))
    return result


def num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped
    (repro/data/poison.py).
    """
    sizes = profile.data.cleaning_sizes
    if spec.clean_size is not None:
        left_in = spec.poisons_left
        return sizes[spec.clean_size] + left_in

    rows = profile.data.num_pairs[spec.dataset] - profile.data.num_validation
    if profile.switches.cleaning_pairs == "held_out":
        rows -= max(sizes.values())
    return rows
