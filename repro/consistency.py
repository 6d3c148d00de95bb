"""Whether the values of a profile fit each other.

Each function yields problems as `field: value (allowed: ...)`. They are checked before anything
runs, so that no stage starts on a specification that a later one would refuse.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from repro.spec import Dataset, IconSource, Objective, Profile, RunSpec


def models_of(profile: Profile) -> list[tuple[Dataset, Objective]]:
    """The pre-trained models of a profile: every dataset with every objective."""
    return list(itertools.product(profile.data.num_pairs, profile.pretrain.objectives))


def problems_of(
    profile: Profile,
    classnames: Sequence[str],
    names_file: str,
    num_names: int,
    runs: list[RunSpec],
) -> list[str]:
    """Every problem of the profile.

    `classnames` are the classes of its task, a part of the `num_names` names in `names_file`;
    `runs` are its cleaning runs.
    """
    return [
        *_class_problems(profile, classnames, names_file, num_names),
        *_size_problems(profile),
        *_model_age_problems(profile),
        *_cleaning_problems(profile),
        *_repeated_runs(runs),
    ]


def _class_problems(
    profile: Profile, names: Sequence[str], names_file: str, num_names: int
) -> Iterator[str]:
    # Attack success is counted for one class: the name must be there, and only once.
    target, source = profile.data.poison.target_class, profile.data.source
    if names.count(target) != 1:
        yield (
            f"data.poison.target_class: {target!r} names {names.count(target)} classes "
            f"(allowed: one of the {len(names)} names in {names_file})"
        )
    if isinstance(source, IconSource) and source.num_concepts > num_names:
        yield (
            f"data.source.num_concepts: {source.num_concepts} "
            f"(allowed: 1 to {num_names}, the names in {names_file})"
        )


def _size_problems(profile: Profile) -> Iterator[str]:
    """Images have the size that the model takes, and a dataset has at least a batch of pairs."""
    data, side = profile.data, profile.pretrain.model.vision.image_size
    if side != data.image_size:
        allowed = f"data.image_size = {data.image_size}"
        yield f"pretrain.model.vision.image_size: {side} (allowed: {allowed})"

    for dataset, objective in models_of(profile):
        # Validation pairs, and cleaning pairs where they are held out, are not trained on.
        left = data.num_pairs[dataset] - data.num_validation
        if profile.switches.cleaning_pairs == "held_out":
            left -= max(data.cleaning_sizes.values())

        # An incomplete batch is not trained on.
        batch = profile.pretrain.objectives[objective].global_batch_size
        if batch > left:
            yield (
                f"pretrain.objectives.{objective}.global_batch_size: {batch} "
                f"(allowed: 2 to {left}, the pairs that {dataset} trains on)"
            )


def _model_age_problems(profile: Profile) -> Iterator[str]:
    """Pre-training reaches the epoch that it hands on, or can choose it."""
    for dataset, objective in models_of(profile):
        schedule = profile.pretrain.objectives[objective]
        age = profile.pretrain.model_age.get(dataset, {}).get(objective)
        field = f"pretrain.model_age.{dataset}.{objective}"
        if age is None or (isinstance(age, int) and age > schedule.epochs):
            yield (
                f"{field}: {age or 'missing'} "
                f"(allowed: last, best_validation_loss, or an epoch up to {schedule.epochs})"
            )
        few = profile.data.num_validation < schedule.global_batch_size
        if age == "best_validation_loss" and few:
            yield (
                f"{field}: best_validation_loss "
                "(allowed where data.num_validation is at least one global batch)"
            )


def _cleaning_problems(profile: Profile) -> Iterator[str]:
    """Cleaning starts from models that are made, on pairs that are there."""
    sizes = profile.data.cleaning_sizes
    for index, cell in enumerate(profile.clean.cells):
        field = f"clean.cells.{index}"
        for objective in cell.pretrain_objectives:
            if objective not in profile.pretrain.objectives:
                made = ", ".join(profile.pretrain.objectives)
                yield f"{field}.pretrain_objectives: {objective!r} (allowed: {made})"
        for size in cell.clean_sizes:
            if size not in sizes:
                yield f"{field}.clean_sizes: {size!r} (allowed: keys of data.cleaning_sizes)"
            elif sizes[size] < cell.global_batch_size:
                yield (
                    f"{field}.global_batch_size: {cell.global_batch_size} "
                    f"(allowed: 2 to {sizes[size]}, the cleaning pairs of {size})"
                )

    left = profile.clean.poisons_left
    for dataset, poisoned in profile.data.poison.num_poisoned.items():
        if left > poisoned:
            yield (
                f"clean.poisons_left: {left} "
                f"(allowed: 0 to {poisoned}, the poisoned pairs of {dataset})"
            )


def _repeated_runs(runs: list[RunSpec]) -> Iterator[str]:
    # The id is the name of the run's folder: a second run would take the place of the first.
    for (cell, run_id), count in Counter((run.cell, run.run_id) for run in runs).items():
        if count > 1:
            yield f"clean.cells: run {run_id} of {cell} is listed {count} times (allowed: once)"
