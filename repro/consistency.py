"""Whether the files of a profile fit each other: checks that need more than one of them.

Each function yields problems, one line each, in the words `file: field: value (allowed: ...)`. They
run before anything else does, so that no stage starts on a specification that a later one would
refuse.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from repro.spec import Dataset, IconSource, Objective, Profile, RunSpec


def cells_of(profile: Profile) -> list[tuple[Dataset, Objective]]:
    """The pre-trained models of a profile: every dataset slot with every objective."""
    return list(itertools.product(profile.data.num_pairs, profile.pretrain.objectives))


def problems_of(
    profile: Profile,
    classnames: Sequence[str],
    names_file: str,
    num_known: int,
    runs: list[RunSpec],
) -> list[str]:
    """Every problem of the profile.

    `classnames` are the classes of its task, taken from `names_file`, which has `num_known` names;
    `runs` its cleaning runs.
    """
    return [
        *_class_problems(profile, classnames, names_file, num_known),
        *_size_problems(profile),
        *_model_age_problems(profile),
        *_cleaning_problems(profile),
        *_repeated_runs(runs),
    ]


def _class_problems(
    profile: Profile, names: Sequence[str], names_file: str, num_known: int
) -> Iterator[str]:
    # Attack success is counted for one class: the name must be there, and only once.
    target, source = profile.data.poison.target_class, profile.data.source
    if names.count(target) != 1:
        yield (
            f"data.yaml: poison.target_class: {target!r} names {names.count(target)} classes "
            f"(allowed: one of the {len(names)} names in {names_file})"
        )
    if isinstance(source, IconSource) and source.num_concepts > num_known:
        yield (
            f"data.yaml: source.num_concepts: {source.num_concepts} "
            f"(allowed: 1 to {num_known}, the names in {names_file})"
        )


def _size_problems(profile: Profile) -> Iterator[str]:
    """Images as large as the model takes them, and at least a batch of pairs in every slot."""
    data, side = profile.data, profile.pretrain.model.vision.image_size
    if side != data.image_size:
        yield (
            f"pretrain.yaml: model.vision.image_size: {side} "
            f"(allowed: data.yaml's image_size = {data.image_size})"
        )

    for slot, objective in cells_of(profile):
        # An incomplete batch is not trained on, so a slot needs at least one.
        batch = profile.pretrain.objectives[objective].global_batch_size

        # Validation pairs, and cleaning pairs where they are held out, are not trained on.
        left = data.num_pairs[slot] - data.num_validation
        if profile.switches.cleaning_pairs == "held_out":
            left -= max(data.cleaning_sizes.values())
        if batch > left:
            yield (
                f"pretrain.yaml: objectives.{objective}.global_batch_size: {batch} "
                f"(allowed: 2 to {left}, the pairs that {slot} trains on)"
            )


def _model_age_problems(profile: Profile) -> Iterator[str]:
    """The epoch that pre-training hands on is one that it reaches, or can choose."""
    for slot, objective in cells_of(profile):
        schedule = profile.pretrain.objectives[objective]
        age = profile.pretrain.model_age.get(slot, {}).get(objective)
        where = f"pretrain.yaml: model_age.{slot}.{objective}"
        if age is None or (isinstance(age, int) and age > schedule.epochs):
            yield (
                f"{where}: {age or 'missing'} "
                f"(allowed: last, best_validation_loss, or an epoch up to {schedule.epochs})"
            )
        elif (
            age == "best_validation_loss"
            and profile.data.num_validation < schedule.global_batch_size
        ):
            yield (
                f"{where}: best_validation_loss "
                "(allowed where data.yaml's num_validation is at least one global batch)"
            )


def _cleaning_problems(profile: Profile) -> Iterator[str]:
    """Cleaning starts from models that are made, on pairs that are there."""
    sizes = profile.data.cleaning_sizes
    for index, cell in enumerate(profile.clean.cells):
        where = f"clean.yaml: cells.{index}"
        for objective in cell.pretrain_objectives:
            if objective not in profile.pretrain.objectives:
                yield f"{where}.pretrain_objectives: {objective!r} is not pre-trained"
        for size in cell.clean_sizes:
            if size not in sizes:
                yield (
                    f"{where}.clean_sizes: {size!r} (allowed: keys of data.yaml's cleaning_sizes)"
                )
            elif sizes[size] < cell.global_batch_size:
                yield f"{where}.global_batch_size: more than the {size} subset holds"

    left = profile.clean.mitigation.poisons_left
    for slot, poisoned in profile.data.poison.num_poisoned.items():
        if left > poisoned:
            yield (
                f"clean.yaml: mitigation.poisons_left: {left} "
                f"(allowed: 0 to {poisoned}, the poisoned pairs of {slot})"
            )


def _repeated_runs(runs: list[RunSpec]) -> Iterator[str]:
    # The id is the name of the run's folder: a second run would take the place of the first.
    for (cell, run_id), count in Counter((run.cell, run.run_id) for run in runs).items():
        if count > 1:
            yield f"clean.yaml: cells: run {run_id} of {cell} is listed {count} times"
