"""Whether the values of a profile fit each other.

Each function yields problems as field, value and what is allowed. They are checked before anything
runs, so that no stage starts on a specification that a later one would refuse.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from repro.names import DATASETS, DEFENCES
from repro.spec import (
    CleanSize,
    Dataset,
    Defence,
    IconTask,
    Objective,
    Profile,
    RunSpec,
    ShardSource,
    SpecError,
    VitConfig,
    num_views,
)

Problem = tuple[str, Any, str]


def models_of(
    profile: Profile, dataset: Dataset | None = None, objective: Objective | None = None
) -> list[tuple[Dataset, Objective]]:
    """The pre-trained models of a profile: all datasets, or one, with all objectives, or one."""
    return [
        (data, goal)
        for data, goal in itertools.product(profile.data.num_pairs, profile.pretrain.objectives)
        if dataset in (None, data) and objective in (None, goal)
    ]


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


def problems_of_graph(profile: Profile) -> list[str]:
    """Problems of a profile of which everything is made, as the graph does."""
    problems = problems_of_use(profile, profile.pretrain.objectives, profile.data.cleaning_sizes)
    return problems + problems_of_training(profile.clean.defence)


def problems_of_training(defence: Defence | None) -> list[str]:
    """A defence of archived runs alone has no code to train by."""
    if defence is None or not DEFENCES[defence.name].retired:
        return []
    allowed = [name for name, of in DEFENCES.items() if not of.retired]
    return _in_words([("clean.defence.name", defence.name, ", ".join(allowed))])


def problems_of_use(
    profile: Profile, objectives: Iterable[Objective], sizes: Collection[CleanSize]
) -> list[str]:
    """Problems of what is made of the profile: models by these objectives, and their cleaning with
    sets of these sizes. A study leaves the rest of its profile aside.
    """
    problems = itertools.chain(
        _view_problems(profile, objectives),
        _sweep_problems(profile, sizes),
    )
    return _in_words(problems)


def problems_of_cleaning(
    profile: Profile, objectives: Iterable[Objective], sizes: Collection[CleanSize]
) -> list[str]:
    """A study's models are all cleaned, if any are; a profile may leave some as they are."""
    cells = [cell for cell in profile.clean.cells if {*cell.clean_sizes} & {*sizes}]
    cleaned = list(dict.fromkeys(name for cell in cells for name in cell.pretrain_objectives))
    left_out = {*objectives} - {*cleaned}
    if not sizes or not left_out:
        return []
    allowed = f"{', '.join(sorted(left_out))} among them, to be cleaned"
    return _in_words([("clean.cells.*.pretrain_objectives", cleaned, allowed)])


def _view_problems(profile: Profile, objectives: Iterable[Objective]) -> Iterator[Problem]:
    """No setting of the second view stands for an objective that has none."""
    spec = profile.pretrain
    single = [name for name in objectives if num_views(name, spec.ssl_weight) == 1]
    for field, default in {"second_view": "all", "image_view": "autoaugment"}.items():
        if single and getattr(spec, field) != default:
            allowed = f"{default}, because {', '.join(single)} encodes one view"
            yield f"pretrain.{field}", getattr(spec, field), allowed


def _sweep_problems(profile: Profile, sizes: Collection[CleanSize]) -> Iterator[Problem]:
    """The smaller set is the smaller one, and every cleaning reaches its rate."""
    clean = profile.clean
    counts = profile.data.cleaning_sizes
    small = counts.get("100k", 0)
    large = counts.get("200k", math.inf)
    if {"100k", "200k"} <= set(sizes) and small > large:
        yield "data.cleaning_sizes.100k", small, f"1 to {large}, the pairs of 200k"
    for cell in clean.cells:
        for size in {*cell.clean_sizes} & {*sizes} & counts.keys():
            steps = (counts[size] + clean.poisons_left) // cell.global_batch_size
            field = "clean.warmup_steps"
            warmup = clean.warmup_steps
            yield from _warmup_problems(profile, field, warmup, steps, clean.epochs)


def _in_words(problems: Iterable[Problem]) -> list[str]:
    lines = [f"{field}: {value!r} (allowed: {allowed})" for field, value, allowed in problems]
    # Several models may have the same problem.
    return list(dict.fromkeys(lines))


def _task_problems(profile: Profile, names: Sequence[str]) -> Iterator[Problem]:
    # Attack success is counted for one class: the name must be there, and only once.
    target = profile.data.poison.target_class
    source = profile.data.source
    file = f"classnames/{profile.evaluate.classnames}.txt"
    if names.count(target) != 1:
        allowed = f"a name that occurs once among the {len(names)} in {file}"
        yield "data.poison.target_class", target, allowed
    if isinstance(source, ShardSource) and profile.evaluate.classnames == "icons":
        yield "evaluate.classnames", "icons", "imagenet, or a list of the evaluation's own classes"
    if isinstance(source, IconTask) and profile.evaluate.classnames != "icons":
        yield "evaluate.classnames", profile.evaluate.classnames, "icons, the task of this source"
    elif isinstance(source, IconTask) and source.num_concepts > len(names):
        allowed = f"1 to {len(names)}, the names in {file}"
        yield "data.source.num_concepts", source.num_concepts, allowed
    if profile.evaluate.templates != "openai":
        for template in profile.evaluate.templates:
            if not re.fullmatch(r"[^{}]*\{\}[^{}]*", template):
                yield "evaluate.templates", template, "strings with exactly one {}"


def _data_problems(profile: Profile) -> Iterator[Problem]:
    pairs = profile.data.num_pairs
    poison = profile.data.poison
    for dataset in DATASETS:
        poisoned = poison.num_poisoned.get(dataset)
        total = pairs.get(dataset)
        if total is None:
            yield f"data.num_pairs.{dataset}", None, "a positive count"
        elif poisoned is None or poisoned > total:
            yield f"data.poison.num_poisoned.{dataset}", poisoned, f"1 to {total}, its pairs"

    source = profile.data.source
    if isinstance(source, ShardSource):
        for dataset in {*DATASETS} - source.pairs.keys():
            allowed = "a folder; where there is none the study goes without the dataset"
            yield f"data.source.pairs.{dataset}", None, allowed
        for dataset in {*DATASETS} - source.selection.keys():
            yield f"data.source.selection.{dataset}", None, "keyed, first"

    patch = poison.trigger.patch_size
    side = profile.data.image_size
    if patch > side:
        yield "data.poison.trigger.patch_size", patch, f"1 to image_size = {side}"
    yield from _subset_problems(profile)


def _subset_problems(profile: Profile) -> Iterator[Problem]:
    """Every dataset has enough pairs that are not poisoned for cleaning and validation."""
    data = profile.data
    sizes = profile.data.cleaning_sizes
    unpoisoned = {
        dataset: count - data.poison.num_poisoned.get(dataset, 0)
        for dataset, count in data.num_pairs.items()
    }
    if not unpoisoned or min(unpoisoned.values()) < 0:
        return
    fewest = min(unpoisoned, key=unpoisoned.__getitem__)
    there = unpoisoned[fewest]
    for size, count in sizes.items():
        if count > there:
            allowed = f"1 to {there}, the pairs of {fewest} that are not poisoned"
            yield f"data.cleaning_sizes.{size}", count, allowed

    # Validation pairs are no cleaning pairs.
    rest = max(0, there - max(sizes.values(), default=0))
    if data.num_validation > rest:
        allowed = f"0 to {rest}, the pairs of {fewest} that are neither poisoned nor for cleaning"
        yield "data.num_validation", data.num_validation, allowed


def _model_problems(profile: Profile) -> Iterator[Problem]:
    """The model can be built, and takes the images of the stores."""
    vision = profile.pretrain.model.vision
    text = profile.pretrain.model.text
    field = "pretrain.model"
    side = profile.data.image_size
    # ModifiedResNet halves the image five times; its attention pool has 32 * width channels.
    step, heads = 32, "32 * vision.width"
    channels = 32 * vision.width
    if isinstance(vision, VitConfig):
        step, heads, channels = vision.patch_size, "vision.width", vision.width
    if vision.image_size % step:
        yield f"{field}.vision.image_size", vision.image_size, f"a multiple of {step}"
    if vision.image_size != side:
        yield f"{field}.vision.image_size", vision.image_size, f"data.image_size = {side}"
    if channels % vision.head_width:
        yield f"{field}.vision.head_width", vision.head_width, f"a divisor of {heads}"
    if text.width % text.heads:
        yield f"{field}.text.heads", text.heads, f"a divisor of text.width = {text.width}"


def _pretraining_problems(profile: Profile) -> Iterator[Problem]:
    """Each dataset has a batch of pairs, and training reaches or can choose its model's epoch."""
    data = profile.data
    spec = profile.pretrain
    if len(set(spec.seeds)) < len(spec.seeds):
        yield "pretrain.seeds", spec.seeds, "every seed once"
    for objective, schedule in spec.objectives.items():
        # BatchNorm takes its statistics over whole groups of the batch.
        field = f"pretrain.objectives.{objective}"
        batch = schedule.global_batch_size
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
        if left < 2:
            continue  # a problem of the counts, which is named there
        if batch > left:
            field = f"pretrain.objectives.{objective}.global_batch_size"
            yield field, batch, f"2 to {left}, the pairs that {dataset} trains on"

        age = spec.model_age.get(dataset, {}).get(objective)
        field = f"pretrain.model_age.{dataset}.{objective}"
        if age is None or (isinstance(age, int) and age > schedule.epochs):
            yield field, age, f"last, best_validation_loss, or an epoch up to {schedule.epochs}"
        if age == "best_validation_loss" and data.num_validation < batch:
            yield field, age, "this where data.num_validation is at least one global batch"

        steps_per_epoch = left // batch
        epochs = age if isinstance(age, int) else schedule.epochs
        field = f"pretrain.objectives.{objective}.warmup_steps"
        yield from _warmup_problems(profile, field, schedule.warmup_steps, steps_per_epoch, epochs)


def _warmup_problems(
    profile: Profile, field: str, warmup_steps: int, steps_per_epoch: int, epochs: int
) -> Iterator[Problem]:
    """The warm-up ends with the run at the latest, or its rate in tables would never be reached."""
    steps = steps_per_epoch * epochs
    # The authors' counter begins one epoch in.
    if profile.switches.schedule_offset == "one_epoch":
        steps += steps_per_epoch
    if warmup_steps > steps:
        yield field, warmup_steps, f"0 to {steps}, the run's steps"


def _cleaning_problems(profile: Profile, runs: list[RunSpec]) -> Iterator[Problem]:
    """Cleaning starts from models that are made, on pairs that are there; no run is made twice."""
    clean = profile.clean
    sizes = profile.data.cleaning_sizes
    if (clean.evaluations_per_epoch is None) == (clean.evaluate_every_steps is None):
        allowed = "a number for exactly one of evaluations_per_epoch and evaluate_every_steps"
        yield "clean.evaluations_per_epoch", clean.evaluations_per_epoch, allowed
    for dataset, poisoned in profile.data.poison.num_poisoned.items():
        if clean.poisons_left > poisoned:
            allowed = f"0 to {poisoned}, the poisoned pairs of {dataset}"
            yield "clean.poisons_left", clean.poisons_left, allowed

    for index, cell in enumerate(clean.cells):
        field = f"clean.cells.{index}"
        batch = cell.global_batch_size
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
    if clean.stop_early is not None:
        epochs = clean.stop_early.epochs
        if epochs > clean.epochs:
            yield "clean.stop_early.epochs", epochs, f"1 to clean.epochs = {clean.epochs}"
        # Judged at an evaluation; those after so many steps come at each epoch's end too.
        elif epochs * (clean.evaluations_per_epoch or 1) % 1:
            yield "clean.stop_early.epochs", epochs, "an epoch that ends with an evaluation"

    # The id is the name of the run's folder: a second run would take the place of the first.
    if len(set(profile.pretrain.seeds)) < len(profile.pretrain.seeds):
        return  # named already
    for (model, run_id), count in Counter((run.model_name, run.run_id) for run in runs).items():
        if count > 1:
            yield "clean.cells", run_id, f"once in {model}, not {count} times"


def fields_at(annotation: Any, place: Sequence[int | str]) -> set[str]:
    """Fields of the model, or of each of several, that an annotation has at a place below it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        if not place:
            return set(fields)
        # In a union with a tag, the tag stands in the place too.
        field = fields.get(str(place[0]))
        return fields_at(field.annotation if field else annotation, place[1:])
    if get_origin(annotation) in (dict, list):
        return fields_at(get_args(annotation)[-1], place[1:])
    return set().union(*(fields_at(part, place) for part in get_args(annotation)))


def problem_list(path: Path | str, lines: list[str], origins: Mapping[str, str]) -> SpecError:
    """The error that lists problems, each with the file that set the value where not `path`."""
    text = [f"{path}: {len(lines)} problem(s)"]
    for line in lines:
        field = line.partition(":")[0]
        while field and field not in origins:
            field = field.rpartition(".")[0]
        origin = origins.get(field, str(path))
        text.append(f"  {line}" + (f" in {origin}" if origin != str(path) else ""))
    return SpecError("\n".join(text))
