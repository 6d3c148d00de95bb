"""Checks of one process: the same function on every device, no waiting, rates."""

import contextlib
import gc
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from repro.check.noise import CPU, Check, Scale, Trainee, batch, known_device, noise_run
from repro.data.memory import cores
from repro.evaluate.folded import FoldedTower
from repro.evaluate.zero_shot import evaluating, predict
from repro.launch.places import loader_workers
from repro.plan.assumptions import arithmetic, load_assumptions
from repro.plan.forecast import pair_seconds
from repro.plan.work import BACKWARD, image_tower, text_tower
from repro.profile import load_profile, pretrain_runs
from repro.spec import Precision, RunSpec
from repro.train.gradient_cache import GradientCache
from repro.train.loading import on_device
from repro.train.loop import TrainingRun
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from repro.worker import Resident

TOLERANCES: dict[Precision, float] = {"fp32": 5e-3, "tf32": 5e-2, "bf16": 5e-1}
"""Largest difference between GPU and CPU: of the loss, and of the gradients over their norm; those
of another model differ by more than 1.
"""
CACHE_TOLERANCE = 1e-3
WITHOUT_INDUCTOR = "aot_eager"
"""Backend of torch.compile on a processor, for which Inductor's kernels take minutes to make."""
SYNC_STEPS = 20
"""Steps of the loop that are watched for waits."""
WAIT_SHARE = 0.05
"""Share of its time that a run on a GPU may wait for data."""
TRAINING_BYTES = 42 * 10**9
"""Most memory of a step on 256 pairs of RN50 in float32."""
SPEED_SHARE = 0.8
"""Of the lowest rate that specs/plan.yaml assumes: below it, the forecast does not hold."""
SHORT = 8
"""Tokens of short captions."""
FLOPS: dict[str, dict[str, float]] = {}
"""FLOP/s of both towers and of evaluations by arithmetic, as `speed` measured them, for `repro
plan`.
"""


def tools(scale: Scale) -> Iterator[Check]:
    """What Triton builds its launchers with at the first step of a compiled run."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    missing = []
    if not header.exists():
        missing.append(f"header {header} (package python3-dev)")
    if not any(shutil.which(name) for name in compilers):
        missing.append("C compiler (gcc or clang, or the variable CC)")
    text = f"missing: {'; '.join(missing)}" if missing else "header of Python, C compiler"
    yield Check("what compiles kernels is there", text, scale.bound(not missing))


def equality(scale: Scale) -> Iterator[Check]:
    """One step on this device against one in float32 on the CPU: loss and gradients."""
    set_arithmetic("fp32", True, CPU)
    images, tokens = batch(scale.spec(), pairs=8, length=20, seed=0, device=CPU)
    reference = Trainee(scale.spec(), CPU)
    expected_loss = float(reference.step(images, tokens))
    expected = gradients(reference)

    for precision, allowed in TOLERANCES.items():
        spec = scale.spec("mmcl", precision)
        set_arithmetic(precision, True, scale.device)
        trainee = Trainee(spec, scale.device)
        loss = float(trainee.step(images.to(scale.device), tokens))
        off = distance(gradients(trainee), expected)
        text = f"loss {loss:.5f} against {expected_loss:.5f}, gradients off by {off:.1e}"
        good = max(off, abs(loss - expected_loss)) < allowed
        yield Check(f"a step in {precision} is that on the CPU", text, good)


def waiting(scale: Scale) -> Iterator[Check]:
    """Steps of the loop with loader processes, in which the host must never wait for the GPU and
    the GPU hardly for data. MMCL has the most images to a second of a GPU.
    """
    for profile in dict.fromkeys((scale.profile, scale.fast)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = noise_run(scale, folder, profile, "mmcl")
            resident = Resident(folder / "cache", scale.device)
            task = resident.task(run.spec, run.fingerprint, run.inputs, folder)
            model = Trainee(run.spec, scale.device).model
            training = TrainingRun(task, model, scale.device, lambda event, content: None)
            training.resume(None)
            workers = loader_workers(cores(), scale.gpu)
            batches = task.pairs.batches(0, training.last_step, workers)
            with contextlib.closing(batches):
                ahead = on_device(batches, scale.device, 1)
                share = _wait_share(training, ahead, scale)
        text = f"{SYNC_STEPS} steps" if scale.gpu else "not checked: no GPU"
        yield Check(f"no step of {profile} waits for the GPU", text, scale.bound(True))
        good = scale.bound(share < WAIT_SHARE)
        yield Check(f"the GPU waits for data of {profile}", f"{share:.1%}", good)


def _wait_share(
    training: TrainingRun, ahead: Iterator[Sequence[torch.Tensor]], scale: Scale
) -> float:
    """Share of the time that steps wait for data, after those that compile and start loaders, and
    some in which whoever waits for the GPU raises an error.
    """
    for _ in range(4):
        training.step(ahead)
    set_mode = torch.cuda.set_sync_debug_mode if scale.gpu else lambda mode: None
    try:
        set_mode("error")
        for _ in range(SYNC_STEPS):
            training.step(ahead)
    finally:
        set_mode("default")

    clock = training.clock
    begun = clock.seconds
    waited = clock.data_wait_seconds
    while training.progress.step < training.last_step:
        training.step(ahead)
    training.read_loss()
    clock.lap()
    return (clock.data_wait_seconds - waited) / (clock.seconds - begun)


def gradient_cache(scale: Scale) -> Iterator[Check]:
    """A step of two BatchNorm groups taken one after the other, eager and compiled, against the
    plain step.
    """
    device = scale.device
    spec = scale.spec("mmcl_ssl", "fp32")
    set_arithmetic("fp32", True, device)
    data = batch(spec, scale.pairs // 4, scale.length, seed=0, device=device)
    plain = Trainee(spec, device, groups=2)
    expected_loss = float(plain.step(*data))
    expected = gradients(plain)
    del plain

    for compiled in (False, True):
        trainee = Trainee(spec, device)
        trainee.encoder = cache = GradientCache(trainee.model, 2, compiled)
        if compiled and not scale.gpu:
            cache.encoder.compile(backend=WITHOUT_INDUCTOR)
        loss = float(trainee.step(*data))
        off = distance(gradients(trainee), expected)
        good = max(off, abs(loss - expected_loss)) < CACHE_TOLERANCE
        how = "compiled" if compiled else "eager"
        yield Check(f"the {how} gradient cache is the plain step", f"off by {off:.1e}", good)


def copies(scale: Scale) -> Iterator[Check]:
    """Batches that are copied to the device while the one before is at work."""
    generator = torch.Generator().manual_seed(0)
    shape = 8, 16, 3, 64, 64
    batches = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    pinned = batches.pin_memory() if scale.gpu else batches
    copied = on_device(([part] for part in pinned), scale.device)
    arrived = torch.stack([part.clone() for [part] in copied])
    same = torch.equal(batches, arrived.cpu())
    yield Check("batches that are copied ahead arrive as they are", "to the byte", same)


def speed(scale: Scale) -> Iterator[Check]:
    """Steps with the batch on the device in the arithmetic of both profiles, their memory, and
    evaluations.

    Fills FLOPS: steps with long and with short captions tell the rates of the towers apart.
    """
    for profile in dict.fromkeys((scale.profile, scale.fast)):
        spec = pretrain_runs(load_profile(profile), "cc6m", "mmcl")[0]
        yield from _speed_of(spec, scale)


def _speed_of(spec: RunSpec, scale: Scale) -> Iterator[Check]:
    """`speed` in the arithmetic of a run."""
    device = scale.device
    set_arithmetic(spec.precision, spec.deterministic, device)
    # What an earlier check left in the caches of the allocator is not this one's.
    gc.collect()
    torch.cuda.empty_cache()
    reset_peak(device)
    trainee = Trainee(spec, device)
    compiled = spec.compile and scale.gpu
    if compiled:
        trainee.encoder.compile()
    data = batch(spec, scale.pairs, scale.length, seed=0, device=device)
    long_rate = trainee.pairs_per_second(data, scale.steps)
    data = batch(spec, scale.pairs, SHORT, seed=0, device=device)
    short_rate = trainee.pairs_per_second(data, scale.steps)

    how = arithmetic(spec.precision, spec)
    tower = image_tower(spec.model).flop
    step = 1 + BACKWARD
    long_text = step * text_tower(spec.model, scale.length).flop
    short_text = step * text_tower(spec.model, SHORT).flop
    text = (long_text - short_text) / (1 / long_rate - 1 / short_rate)
    image = step * tower / (1 / short_rate - short_text / text)
    evaluated = _images_per_second(trainee, spec, scale, compiled)
    evaluation = evaluated * tower
    FLOPS[how] = {"image": image, "text": text, "evaluation": evaluation}

    parts = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in FLOPS[how].items())
    said = f"{long_rate:.0f} pairs/s ({parts} TFLOP/s)"
    good = None
    if known := known_device(scale):
        assumptions = load_assumptions()
        rates = assumptions.rates(assumptions.devices[known], spec)
        *_, slowest = pair_seconds(spec, rates, scale.length)
        least = SPEED_SHARE / slowest
        good = bool(long_rate > least)
        said += f", at least {least:.0f}"
    yield Check(f"speed, {how}", said, good)
    yield Check(f"evaluation, {how}", f"{evaluated:.0f} images/s")

    most = TRAINING_BYTES
    if spec.precision == "bf16":
        most //= 2
    peak = peak_bytes(device)
    said = f"peak {peak / 1e9:.1f} GB (at most {most / 1e9:.0f})"
    yield Check(f"memory, {how}", said, scale.bound(peak < most))


def _images_per_second(trainee: Trainee, spec: RunSpec, scale: Scale, compiled: bool) -> float:
    """Speed of evaluations, a batch of images without and with trigger a time."""
    model = trainee.model
    device = scale.device
    pairs = scale.pairs if scale.gpu else 16
    views, _ = batch(spec, 2 * pairs, length=8, seed=0, device=device)
    images = views[0].permute(0, 2, 3, 1).contiguous()  # (2 pairs, H, W, 3)
    classifier = torch.randn(spec.model.embed_dim, 1000, device=device)
    with evaluating(model, spec.evaluation_precision, device):
        tower = FoldedTower(model.visual, len(images)) if compiled else model
        for steps in (3, scale.steps):
            begun = time.monotonic()
            for _ in range(steps):
                classes = predict(tower, images, classifier)
            # Reading a class waits for the device.
            classes[0].item()
    return scale.steps * len(images) / (time.monotonic() - begun)


def gradients(trainee: Trainee) -> torch.Tensor:
    """All gradients as one vector."""
    parts = []
    for parameter in trainee.model.parameters():
        if parameter.grad is not None:
            parts.append(parameter.grad.detach().cpu().double().flatten())
    return torch.cat(parts)


def distance(gradients: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of `expected`."""
    return float((gradients - expected).norm() / expected.norm())
