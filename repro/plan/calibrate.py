"""What this machine's speed is, by real training steps and evaluations of a profile: the rates of a forecast.

`measure` times every kind of run through the code that will run it: the worker's data, the loop's step, the evaluation.
`calibrate` does so in one process for each slot, all at once, as the launcher will: cores share their memory's bandwidth.
Where the profile's data is not there yet, random pixels and captions of the assumed length stand in; then reading, decoding and
augmenting is not in the rates. Where a whole batch would take too long, a part of it is timed.
On one thread the clock is the processor time of the process, so that other programs on the machine do not slow the forecast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor

from repro.data.templates import templates_of
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH
from repro.launch.places import TRAINING_ENVIRONMENT, devices, single_slots
from repro.plan.work import Rates, kind_of, load_assumptions, num_evaluation_images
from repro.profile import clean_runs, load_classnames, load_profile, pretrain_runs
from repro.runs.layout import WORK, standard_inputs
from repro.runs.run import Input
from repro.spec import Profile, RunSpec, Schedule
from repro.train import distributed
from repro.train.loop import Task
from repro.train.model import PairEncoder, build_model, build_optimizer, encode_text, normalise
from repro.train.step import training_step
from repro.worker import Resident

WARM_UP = 3
"""Steps of a kind that are not timed: the first ones allocate memory and choose kernels."""
MATRIX_SIZE = 2048
"""Side of the square matrices whose product measures the device's rate."""
CPU_BATCH = 16
"""Images and prompts that stand for all of an evaluation that would take too long, on CPUs."""
SHARES = 1.5
"""Time of an evaluation in the budget, relative to that of one kind of training."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one slot reached."""

    pair_view: dict[str, float]
    """Seconds for one pair-view by kind, the wait for data included."""
    data_wait: dict[str, float]
    """Of these, waiting for data."""
    batch: dict[str, int]
    """Pairs in the steps that were timed."""
    evaluation: float
    start: float
    """From the start of the process until data and model of the first kind were there."""
    matrix_flops: float
    """FLOP/s of a large matrix product at the profile's precision."""
    real_data: bool


def calibrate(profile_name: str, seconds: float) -> tuple[Rates, dict[str, Any]]:
    """Rates of one device of this machine, and what was measured; about `seconds` of steps and evaluations, start-up besides.

    The mean over slots, one process each, which run at once. RuntimeError with the output of one that failed.
    """
    slots = single_slots()
    running = []
    for slot in slots:
        environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": ",".join(slot.devices),
            "OMP_NUM_THREADS": str(slot.threads),
            **TRAINING_ENVIRONMENT,
        }
        command = [
            sys.executable,
            "-m",
            "repro.calibrate",
            profile_name,
            str(seconds),
            str(slot.threads),
        ]
        running.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    speeds = []
    for process in running:
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(
                f"calibration ended with status {process.returncode}:\n{errors[-2000:]}"
            )
        speeds.append(Speed(**json.loads(output.splitlines()[-1])))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    kinds = speeds[0].pair_view
    rates = Rates(
        pair_view={kind: mean([speed.pair_view[kind] for speed in speeds]) for kind in kinds},
        evaluation=mean([speed.evaluation for speed in speeds]),
        start=mean([speed.start for speed in speeds]),
    )
    return rates, {
        "slots": len(slots),
        "threads": slots[0].threads,
        "gpu": bool(devices()),
        "real_data": speeds[0].real_data,
        "matrix_gflops": mean([speed.matrix_flops for speed in speeds]) / 1e9,
        "batch": speeds[0].batch,
        "data_wait": {
            kind: mean([speed.data_wait[kind] / speed.pair_view[kind] for speed in speeds])
            for kind in kinds
        },
    }


def measure(profile: Profile, seconds: float, specs: list[RunSpec]) -> Speed:
    """Time every kind of run among `specs`, runs of the profile, and an evaluation on this process's device for `seconds` in all."""
    device = distributed.start()
    resident = Resident(WORK / "cache", device)
    kinds = {kind_of(spec): spec for spec in specs}
    budget = seconds / (len(kinds) + SHARES)
    pair_view, waits, batches = {}, {}, {}
    start, task = 0.0, None
    for kind, spec in kinds.items():
        task = load_task(resident, spec)
        if not start:
            build_model(spec.model, 0, "fp32")
            start = time.process_time()
        pair_view[kind], waits[kind], batches[kind] = _training(spec, task, device, budget)
    evaluation = _evaluation(profile, task, device, SHARES * budget)
    rate = matrix_rate(device, profile.pretrain.precision)
    return Speed(pair_view, waits, batches, evaluation, start, rate, task is not None)


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
    """Seconds for a pair-view, of which waiting for data, and the pairs in a step."""
    model = build_model(spec.model, spec.seed, spec.switches.initialisation).to(device)
    optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
    model.train()
    views = spec.num_views

    def step(images: Tensor, tokens: Tensor, norm_batch: int) -> float:
        encoder = PairEncoder(model, max(1, images.shape[1] // norm_batch))
        begun = now(device)
        losses = training_step(
            encoder,
            model,
            optimizer,
            images.to(device),
            tokens.to(device),
            spec,
            spec.schedule.learning_rate,
        )
        float(losses["loss"])  # waits for the device
        return now(device) - begun

    schedule = spec.schedule
    probe = random_batch(spec, views, 2, _caption_tokens(spec))
    step(*probe, 2)
    batch = _affordable(schedule, step(*probe, 2) / 2, budget)
    source = _batches(task if batch == schedule.global_batch_size else None, spec, views, batch)
    trained = waited = 0.0
    timed = 0
    for number in range(1_000_000):
        begun = now(device)
        images, tokens = next(source)
        wait = now(device) - begun
        took = step(images, tokens, min(schedule.norm_batch_size, batch))
        if number < min(WARM_UP, budget // (took + wait)):
            continue
        trained, waited, timed = trained + took, waited + wait, timed + 1
        if trained + waited > budget:
            break
    pair_views = timed * batch * views
    return (trained + waited) / pair_views, waited / pair_views, batch


def _affordable(schedule: Schedule, seconds_per_pair: float, budget: float) -> int:
    """The batch, or the largest halving of it of which two steps fit the budget."""
    batch = schedule.global_batch_size
    while batch > 2 and 2 * batch * seconds_per_pair > budget:
        batch //= 2
    return batch


def _batches(
    task: Task | None, spec: RunSpec, views: int, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if task is not None:
        while True:
            yield from task.pairs.batches(
                0, task.pairs.steps_per_epoch, int(os.environ.get("REPRO_LOADER_WORKERS", "0"))
            )
    drawn = random_batch(spec, views, batch, _caption_tokens(spec))
    while True:
        yield drawn


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
    """Seconds of an evaluation: of real ones after a first, where two fit the budget; else scaled from a batch of images and of prompts."""
    model = build_model(profile.pretrain.model, 0, "fp32").to(device)
    model.eval()
    names = load_classnames(profile)
    estimate = _evaluation_estimate(profile, model, names, device)
    if task is None or 2 * estimate > budget:
        return estimate
    task.evaluate(model, 1, 0, lambda: None)  # makes what later evaluations find in memory
    begun, count = now(device), 0
    while now(device) - begun < budget / 2:
        task.evaluate(model, 1, 0, lambda: None)
        count += 1
    return (now(device) - begun) / count


def _evaluation_estimate(
    profile: Profile, model: CLIP, names: list[str], device: torch.device
) -> float:
    """Without reading, triggers and similarities."""
    batch = IMAGE_BATCH if device.type == "cuda" else CPU_BATCH
    side = profile.pretrain.model.vision.image_size
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    prompts = PromptSet(names, templates_of(profile.evaluate), profile.switches.truncation)
    middle = len(prompts.tokens) // 2  # sorted by length: one of the median length
    tokens = prompts.tokens[middle : middle + batch, : int(prompts.lengths[middle])]
    per_image = (
        _seconds(
            device, lambda: model.encode_image(normalise(pixels.to(device)), normalize=True).cpu()
        )
        / batch
    )
    per_prompt = _seconds(device, lambda: encode_text(model, tokens.to(device)).cpu()) / len(tokens)
    return 2 * num_evaluation_images(profile) * per_image + len(prompts.tokens) * per_prompt


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the product of two large square matrices: the best of five."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    left, right = (
        torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype) for _ in range(2)
    )
    return float(
        2
        * MATRIX_SIZE**3
        / min(_seconds(device, lambda: (left @ right)[0, 0].item()) for _ in range(5))
    )


def now(device: torch.device) -> float:
    """Seconds on the clock that rates are measured by: processor time where one thread computes, else wall time."""
    return (
        time.process_time()
        if device.type == "cpu" and torch.get_num_threads() == 1
        else time.monotonic()
    )


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Time of the second of two calls."""
    work()
    begun = now(device)
    work()
    return now(device) - begun


if __name__ == "__main__":
    distributed.repeatable(threads=int(sys.argv[3]))
    chosen = load_profile(sys.argv[1])
    print(
        json.dumps(
            asdict(
                measure(chosen, float(sys.argv[2]), [*pretrain_runs(chosen), *clean_runs(chosen)])
            )
        )
    )
