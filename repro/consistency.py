"""Whether the values of a profile fit each other.

Each function yields problems as field, value and what is allowed. They are checked before anything
runs, so that no stage starts on a specification that a later one would refuse.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from repro.names import DATASETS, LOSSES
from repro.spec import Dataset, IconSource, Objective, Profile, RunSpec

Problem = tuple[str, Any, str]


def models_of(
    profile: Profile, dataset: Dataset | None = None, objective: Objective | None = None
) -> list[tuple[Dataset, Objective]]:
    """The pre-trained models of a profile: all datasets, or one, with all objectives, or one."""
    models = itertools.product(profile.data.num_pairs, profile.pretrain.objectives)
    return [m for m in models if dataset in (None, m[0]) and objective in (None, m[1])]


def problems_of(profile: Profile, classnames: Sequence[str], runs: list[RunSpec]) -> list[str]:
    """Every problem of the profile as `field: value (allowed: ...)`.

    `classnames` are the classes of its task, `runs` its cleaning runs.
    """
    problems = itertools.chain(
        _task_problems(profile, classnames),
        _data_problems(profile),
        _model_problems(profile),
        _pretraining_problems(profile),
        _cleaning_problems(profile, runs),
    )
    return _in_words(problems)


def view_problems(profile: Profile, objectives: Iterable[Objective]) -> list[str]:
    """Settings of the second view with which one of the objectives, which has no such view, would
    be trained.
    """
    spec = profile.pretrain
    single = [name for name in objectives if LOSSES[name].views == 1 or not spec.ssl_weight]
    if spec.second_view == "all" or not single:
        return []
    allowed = f"all, because {', '.join(single)} encodes one view"
    return _in_words([("pretrain.second_view", spec.second_view, allowed)])


def _in_words(problems: Iterable[Problem]) -> list[str]:
    return [f"{field}: {value!r} (allowed: {allowed})" for field, value, allowed in problems]


def _task_problems(profile: Profile, names: Sequence[str]) -> Iterator[Problem]:
    # Attack success is counted for one class: the name must be there, and only once.
    target, source = profile.data.poison.target_class, profile.data.source
    file = f"classnames/{profile.evaluate.classnames}.txt"
    if names.count(target) != 1:
        allowed = f"a name that occurs once among the {len(names)} in {file}"
        yield "data.poison.target_class", target, allowed
    if isinstance(source, IconSource) and source.num_concepts > len(names):
        allowed = f"1 to {len(names)}, the names in {file}"
        yield "data.source.num_concepts", source.num_concepts, allowed
    if profile.evaluate.templates != "openai":
        for template in profile.evaluate.templates:
            if not re.fullmatch(r"[^{}]*\{\}[^{}]*", template):
                yield "evaluate.templates", template, "strings with exactly one {}"


def _data_problems(profile: Profile) -> Iterator[Problem]:
    pairs, poison = profile.data.num_pairs, profile.data.poison
    for dataset in DATASETS:
        poisoned, total = poison.num_poisoned.get(dataset), pairs.get(dataset)
        if total is None:
            yield f"data.num_pairs.{dataset}", None, "a positive count"
        elif poisoned is None or poisoned > total:
            yield f"data.poison.num_poisoned.{dataset}", poisoned, f"1 to {total}, its pairs"

    patch, side = poison.trigger.patch_size, profile.data.image_size
    if patch > side:
        yield "data.poison.trigger.patch_size", patch, f"1 to image_size = {side}"
    smallest = min(pairs.values(), default=0)
    for size, count in profile.data.cleaning_sizes.items():
        if count > smallest:
            allowed = f"1 to {smallest}, the pairs of the smallest dataset"
            yield f"data.cleaning_sizes.{size}", count, allowed


def _model_problems(profile: Profile) -> Iterator[Problem]:
    """The model can be built, and takes the images of the stores."""
    vision, text = profile.pretrain.model.vision, profile.pretrain.model.text
    field, side = "pretrain.model", profile.data.image_size
    # ModifiedResNet halves the image five times; its attention pool has 32 * width channels.
    if vision.image_size % 32:
        yield f"{field}.vision.image_size", vision.image_size, "a multiple of 32"
    if vision.image_size != side:
        yield f"{field}.vision.image_size", vision.image_size, f"data.image_size = {side}"
    if vision.width * 32 % vision.head_width:
        yield f"{field}.vision.head_width", vision.head_width, "a divisor of 32 * vision.width"
    if text.width % text.heads:
        yield f"{field}.text.heads", text.heads, f"a divisor of text.width = {text.width}"


def _pretraining_problems(profile: Profile) -> Iterator[Problem]:
    """A dataset has at least a batch of pairs; training reaches the epoch that it hands on, or can
    choose it.
    """
    data, spec = profile.data, profile.pretrain
    for objective, schedule in spec.objectives.items():
        # BatchNorm takes its statistics over whole groups of the batch.
        field, batch = f"pretrain.objectives.{objective}", schedule.global_batch_size
        if batch % schedule.norm_batch_size:
            allowed = f"a divisor of global_batch_size = {batch}"
            yield f"{field}.norm_batch_size", schedule.norm_batch_size, allowed

    for dataset, objective in models_of(profile):
        # Validation pairs, and cleaning pairs where they are held out, are not trained on.
        left = data.num_pairs[dataset] - data.num_validation
        if profile.switches.cleaning_pairs == "held_out":
            left -= max(data.cleaning_sizes.values(), default=0)

        # An incomplete batch is not trained on.
        schedule = spec.objectives[objective]
        batch = schedule.global_batch_size
        if batch > left:
            field = f"pretrain.objectives.{objective}.global_batch_size"
            yield field, batch, f"2 to {left}, the pairs that {dataset} trains on"

        age = spec.model_age.get(dataset, {}).get(objective)
        field = f"pretrain.model_age.{dataset}.{objective}"
        if age is None or (isinstance(age, int) and age > schedule.epochs):
            yield field, age, f"last, best_validation_loss, or an epoch up to {schedule.epochs}"
        if age == "best_validation_loss" and data.num_validation < batch:
            yield field, age, "this where data.num_validation is at least one global batch"


def _cleaning_problems(profile: Profile, runs: list[RunSpec]) -> Iterator[Problem]:
    """Cleaning starts from models that are made, on pairs that are there; no run is made twice."""
    clean, sizes = profile.clean, profile.data.cleaning_sizes
    if (clean.evaluations_per_epoch is None) == (clean.evaluate_every_steps is None):
        allowed = "a number for exactly one of evaluations_per_epoch and evaluate_every_steps"
        yield "clean.evaluations_per_epoch", clean.evaluations_per_epoch, allowed
    for dataset, poisoned in profile.data.poison.num_poisoned.items():
        if clean.poisons_left > poisoned:
            allowed = f"0 to {poisoned}, the poisoned pairs of {dataset}"
            yield "clean.poisons_left", clean.poisons_left, allowed

    for index, cell in enumerate(clean.cells):
        field, batch = f"clean.cells.{index}", cell.global_batch_size
        for objective in cell.pretrain_objectives:
            if objective not in profile.pretrain.objectives:
                made = ", ".join(profile.pretrain.objectives)
                yield f"{field}.pretrain_objectives", objective, made
        for size in cell.clean_sizes:
            if size not in sizes:
                yield f"{field}.clean_sizes", size, "keys of data.cleaning_sizes"
            elif sizes[size] < batch:
                allowed = f"2 to {sizes[size]}, the cleaning pairs of {size}"
                yield f"{field}.global_batch_size", batch, allowed

    # The id is the name of the run's folder: a second run would take the place of the first.
    for (model, run_id), count in Counter((run.cell, run.run_id) for run in runs).items():
        if count > 1:
            yield "clean.cells", run_id, f"once in {model}, not {count} times"
