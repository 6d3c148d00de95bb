"""The speed of this process's device, by real training steps and evaluations of a profile.

Every kind of run goes through the code that will run it: the worker's data, the loop's step, the
evaluation. Where the profile's data is not there yet, random pixels and captions of the assumed
length stand in; then reading, decoding and augmenting is not in the rates. On CPUs, where a whole
batch would take too long, a part of it is timed.

On one thread the clock is the processor time of the process, so that other programs on the machine
do not slow the forecast.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor

from repro.data.templates import templates_of
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH
from repro.launch.places import LOADER_WORKERS
from repro.ledger import Input
from repro.plan.assumptions import load_assumptions, num_evaluation_images
from repro.plan.rates import Rates
from repro.plan.work import Work, work_of
from repro.profile import load_classnames, load_profile
from repro.runs.layout import WORK, standard_inputs
from repro.spec import Profile, RunSpec, Schedule
from repro.train.loop import Task, train
from repro.train.model import PairEncoder, build_model, build_optimizer, encode_text, normalise
from repro.train.pairs import TrainingPairs
from repro.train.process import distributed
from repro.train.step import training_step
from repro.worker import Resident

WARM_UP = 3
"""Steps of a kind that are not timed: the first ones allocate memory and choose kernels."""
MATRIX_SIZE = 2048
"""Side of the square matrices whose product measures the device's rate."""
CPU_BATCH = 16
"""Images and prompts that stand for all of an evaluation that would take too long, on CPUs."""
EVALUATION_WEIGHT = 1.5
"""Part of an evaluation in the time to spend, relative to that of one kind of training."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one place reached."""

    step: dict[str, float]
    """Seconds of the training step for one pair-view, by kind."""
    wait: dict[str, float]
    """Seconds that it waits for the data of a pair-view besides, by kind."""
    batch: dict[str, int]
    """Pairs in the steps that were timed."""
    run: dict[str, float]
    """Seconds of a run beside its steps and evaluations, by kind; 0 where a whole one takes too
    long to be timed, and they are next to nothing.
    """
    evaluation: float
    start: float
    """From the start of the process until data and model of the first kind were there."""
    matrix_flops: float
    """FLOP/s of a large matrix product at the profile's precision."""
    real_data: bool


@dataclass
class _Timed:
    """Steps of one kind so far."""

    trained: float = 0.0
    waited: float = 0.0
    count: int = 0


def measure(profile: Profile, seconds: float, works: list[Work]) -> Speed:
    """Time every kind of run among `works`, runs of the profile, and an evaluation, for `seconds`
    in all.
    """
    device = distributed.start()
    resident = Resident(WORK / "cache", device)
    kinds = {work.kind: work for work in works}
    budget = seconds / (len(kinds) + EVALUATION_WEIGHT)

    step, wait, batches, whole = {}, {}, {}, {}
    start, task = 0.0, None
    for kind, work in kinds.items():
        task = load_task(resident, work.spec)
        if not start:
            build_model(work.spec.model, 0, "fp32")
            start = time.process_time()
        step[kind], wait[kind], batches[kind] = _training(work.spec, task, device, budget)

        # Short runs are made, for they are more than their steps.
        if task is not None and work.pair_views * (step[kind] + wait[kind]) < budget / 2:
            whole[kind] = whole_run(work, task, device)

    evaluation = _evaluation(profile, task, device, EVALUATION_WEIGHT * budget)
    run = dict.fromkeys(kinds, 0.0)
    for kind, took in whole.items():
        apart = Rates(step, wait, evaluation, start).seconds(kinds[kind])
        steps = apart.training + apart.host
        run[kind] = max(0.0, took - apart.total)

        # Timed apart, steps may take longer than one after another in a run: the run is right.
        share = min(1.0, max(0.0, took - apart.evaluation) / steps)
        step[kind] *= share
        wait[kind] *= share

    return Speed(
        step=step,
        wait=wait,
        batch=batches,
        run=run,
        evaluation=evaluation,
        start=start,
        matrix_flops=matrix_rate(device, profile.pretrain.precision),
        real_data=task is not None,
    )


def whole_run(work: Work, task: Task, device: torch.device) -> float:
    """Seconds of a run of `work`, as the worker makes it but for its start model."""
    model = build_model(work.spec.model, 0, "fp32").to(device)

    # What the worker keeps between runs: triggers, and of start models the predictions.
    if work.spec.stage == "clean":
        task.evaluate(model, 0, 0, _never)

    workers = _loader_workers()
    with TemporaryDirectory() as folder:
        begun = now(device)
        train(replace(task, work_dir=Path(folder)), model, None, device, _unheard, workers)
        return now(device) - begun


def _loader_workers() -> int:
    """As the worker reads it."""
    return int(os.environ.get(LOADER_WORKERS, "0"))


def _unheard(event: str, content: dict[str, Any]) -> None:
    """Nobody watches a measurement."""


def load_task(resident: Resident, spec: RunSpec) -> Task | None:
    """The run as the worker loads it, but for the start model; None if its data is not there."""
    inputs = {name: path for name, path in standard_inputs(spec).items() if name != "model"}
    if not all(path.exists() for path in inputs.values()):
        return None

    described: dict[str, Input] = {
        name: {"path": path.as_posix(), "hash": ""} for name, path in inputs.items()
    }
    described["model"] = {"path": "", "hash": ""}
    return resident.task(spec, "", described, WORK)


def _training(
    spec: RunSpec, task: Task | None, device: torch.device, budget: float
) -> tuple[float, float, int]:
    """Seconds of the step and of the wait for a pair-view, and the pairs in a step."""
    model = build_model(spec.model, spec.seed, spec.switches.initialisation).to(device)
    optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
    model.train()
    schedule = spec.schedule

    def step(images: Tensor, tokens: Tensor, norm_batch: int) -> float:
        encoder = PairEncoder(model, max(1, images.shape[1] // norm_batch))
        begun = now(device)
        batch = images.to(device), tokens.to(device)
        losses = training_step(encoder, model, optimizer, *batch, spec, schedule.learning_rate)
        float(losses["loss"])  # waits for the device
        return now(device) - begun

    # How large a batch the device takes, and how much of one the time allows.
    probe = random_batch(spec, spec.num_views, 2, _caption_tokens(spec))
    step(*probe, 2)
    batch = _affordable(schedule, step(*probe, 2) / 2, budget)

    timed = _Timed()
    warm_up = WARM_UP
    for images, tokens, waited in _batches(task, spec, batch, device):
        took = step(images, tokens, min(schedule.norm_batch_size, batch))

        # Steps that take the whole time are not thrown away.
        if warm_up > 0 and WARM_UP * (took + waited) < budget:
            warm_up -= 1
            continue
        timed.trained += took
        timed.waited += waited
        timed.count += 1
        if timed.trained + timed.waited > budget:
            break

    pair_views = timed.count * batch * spec.num_views
    return timed.trained / pair_views, timed.waited / pair_views, batch


def _affordable(schedule: Schedule, seconds_per_pair: float, budget: float) -> int:
    """A BatchNorm group, which is what memory is made for, or the largest halving of it of which
    two steps fit.
    """
    batch = min(schedule.global_batch_size, schedule.norm_batch_size)
    while batch > 2 and 2 * batch * seconds_per_pair > budget:
        batch //= 2
    return batch


def _batches(
    task: Task | None, spec: RunSpec, batch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Batches of `batch` pairs, parts of the run's own, each with its share of the wait for these;
    without data, of the same random pairs.
    """
    if task is None:
        drawn = random_batch(spec, spec.num_views, batch, _caption_tokens(spec))
        while True:
            yield *drawn, 0.0

    loaded = _endless(task.pairs, _loader_workers())
    while True:
        begun = now(device)
        images, tokens = next(loaded)
        parts = images.shape[1] // batch
        waited = (now(device) - begun) / parts
        for part in range(parts):
            pairs = slice(part * batch, (part + 1) * batch)
            yield images[:, pairs], tokens[:, pairs], waited


def _endless(pairs: TrainingPairs, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from pairs.batches(0, pairs.steps_per_epoch, workers)


def _caption_tokens(spec: RunSpec) -> int:
    return load_assumptions()[0].caption_tokens[load_profile(spec.profile).data.source.kind]


def random_batch(spec: RunSpec, views: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Pixels (V, b, 3, H, W) and tokens (V, b, length) without meaning, the end token last."""
    side = spec.model.vision.image_size
    tokens = torch.randint(1, spec.model.text.vocab_size - 1, (views, batch, length))
    tokens[..., -1] = spec.model.text.vocab_size - 1
    return torch.randint(0, 256, (views, batch, 3, side, side), dtype=torch.uint8), tokens


@torch.inference_mode()
def _evaluation(profile: Profile, task: Task | None, device: torch.device, budget: float) -> float:
    """Seconds of an evaluation: of real ones after a first.

    On CPUs, where two would take longer than `budget`, it is scaled from a batch of images and one
    of prompts.
    """
    model = build_model(profile.pretrain.model, 0, "fp32").to(device)
    model.eval()
    names = load_classnames(profile)
    if task is None:
        return _evaluation_estimate(profile, model, names, device)
    if device.type == "cpu":
        estimate = _evaluation_estimate(profile, model, names, device)
        if 2 * estimate > budget:
            return estimate

    # The first makes what later ones find in memory.
    task.evaluate(model, 1, 0, _never)
    begun, count = now(device), 0
    while count == 0 or now(device) - begun < budget / 2:
        task.evaluate(model, 1, 0, _never)
        count += 1
    return (now(device) - begun) / count


def _never() -> None:
    """Nobody asks a measurement to stop between batches."""


def _evaluation_estimate(
    profile: Profile, model: CLIP, names: list[str], device: torch.device
) -> float:
    """Without reading, triggers and similarities."""
    batch = IMAGE_BATCH if device.type == "cuda" else CPU_BATCH
    side = profile.pretrain.model.vision.image_size
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)

    # Prompts are sorted by length: those of the median length stand for all.
    prompts = PromptSet(names, templates_of(profile.evaluate), profile.switches.truncation)
    middle = len(prompts.tokens) // 2
    tokens = prompts.tokens[middle : middle + batch, : int(prompts.lengths[middle])]

    def images() -> None:
        model.encode_image(normalise(pixels.to(device)), normalize=True).cpu()

    def texts() -> None:
        encode_text(model, tokens.to(device)).cpu()

    per_image = _seconds(device, images) / batch
    per_prompt = _seconds(device, texts) / len(tokens)
    return 2 * num_evaluation_images(profile) * per_image + len(prompts.tokens) * per_prompt


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the product of two large square matrices: the best of five."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    shape = MATRIX_SIZE, MATRIX_SIZE
    left = torch.randn(shape, device=device, dtype=dtype)
    right = torch.randn(shape, device=device, dtype=dtype)

    def product() -> float:
        return (left @ right)[0, 0].item()

    return 2 * MATRIX_SIZE**3 / min(_seconds(device, product) for _ in range(5))


def now(device: torch.device) -> float:
    """Seconds on the clock that rates are measured by: processor time where one thread computes,
    else wall time.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return time.monotonic()


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Time of the second of two calls."""
    work()
    begun = now(device)
    work()
    return now(device) - begun


def main(profile_name: str, seconds: float, threads: int) -> None:
    """Print the speed as a line of JSON."""
    distributed.repeatable(threads=threads)
    profile = load_profile(profile_name)
    speed = measure(profile, seconds, work_of(profile))
    print(json.dumps(asdict(speed)))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
