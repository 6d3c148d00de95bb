"""What a profile has to do: the pairs and evaluations of every run, from its specifications
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from repro.profile import clean_runs, pretrain_runs
from repro.spec import Dataset, Profile, RunSpec
from repro.train.schedule import evaluation_steps, num_steps


@dataclass(frozen=True, slots=True)
class Work:
    """What one training run does, unless it ends early."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    evaluations: int
    """Evaluations of its own: the cleaning runs of one model share that of the start model, and the
    first one has it.
    """
    partial: int
    """Evaluations among them of `images_between` images a class."""


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take the same time a pair: stage, loss and batch."""
    return f"{spec.stage} {spec.loss} x{spec.schedule.global_batch_size}"


def work_of(profile: Profile, dataset: Dataset | None = None) -> list[Work]:
    """The work of every run of the profile, or of those on one dataset, pre-trainings first."""
    result: list[Work] = []
    for spec in [*pretrain_runs(profile, dataset), *clean_runs(profile, dataset)]:
        steps_per_epoch = num_rows(profile, spec) // spec.schedule.global_batch_size
        steps = evaluation_steps(spec, steps_per_epoch)
        partial = sum(step % steps_per_epoch > 0 for step in steps) if spec.images_between else 0

        # The start model of several cleaning runs is evaluated once.
        start = spec.stage, spec.cell, spec.seed
        shared = any((w.spec.stage, w.spec.cell, w.spec.seed) == start for w in result)
        pairs = num_steps(spec, steps_per_epoch) * spec.schedule.global_batch_size
        result.append(Work(spec, pairs, len(steps) - shared, partial))
    return result


def num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped
    (repro/data/poison.py).
    """
    data = profile.data
    if spec.clean_size is not None:
        return data.cleaning_sizes[spec.clean_size] + spec.poisons_left
    held_out = profile.switches.cleaning_pairs == "held_out"
    kept = max(data.cleaning_sizes.values()) if held_out else 0
    return data.num_pairs[spec.dataset] - data.num_validation - kept
