"""Checks of one process: the same function on every device, the same bits, no waiting, rates."""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from repro.check.noise import Scale, Trainee, batch, noise_run
from repro.check.outcome import Check
from repro.evaluate.residence import TRAINING_BYTES, Home, Residence, in_flight
from repro.launch.places import cores, loader_workers
from repro.plan.assumptions import load_assumptions
from repro.plan.flops import count
from repro.plan.forecast import arithmetic
from repro.plan.work import kind_of
from repro.profile import load_profile, pretrain_runs
from repro.spec import Precision
from repro.train.gradient_cache import GradientCache
from repro.train.loading import on_device
from repro.train.loop import TrainingRun
from repro.train.process.checkpoint import Saver, load_checkpoint
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from repro.worker import Resident

CPU = torch.device("cpu")
TOLERANCES: dict[Precision, float] = {"fp32": 5e-3, "tf32": 5e-2, "bf16": 5e-1}
"""Largest difference between GPU and CPU: of the loss, and of the gradients over their norm; those
of another model differ by more than 1.
"""
CACHE_TOLERANCE = 1e-3
STALL_SECONDS = 0.2
"""Longest time that a checkpoint may keep training on a GPU from going on."""
SPEED_SHARE = 0.8
"""Of the lowest rate that specs/plan.yaml assumes: below it, the forecast does not hold."""


def equality(scale: Scale, device: torch.device) -> Iterator[Check]:
    """One step on this device against one in float32 on the CPU: loss and gradients."""
    set_arithmetic("fp32", True, CPU)
    data = batch(scale.spec(), 8, 20, 0, CPU)
    reference = Trainee(scale.spec(), CPU)
    expected_loss, expected = float(reference.step(*data)), _gradients(reference)

    for precision, allowed in TOLERANCES.items():
        spec = scale.spec("mmcl", precision)
        set_arithmetic(spec.precision, True, device)
        trainee = Trainee(spec, device)
        loss = float(trainee.step(*(tensor.to(device) for tensor in data)))
        off = _distance(_gradients(trainee), expected)
        text = f"loss {loss:.5f} against {expected_loss:.5f}, gradients off by {off:.1e}"
        yield Check(
            f"a step in {precision} is that on the CPU",
            text,
            off < allowed and abs(loss - expected_loss) < allowed,
        )


def repeatable(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Five MMCL + SSL steps with captions of changing length, twice."""
    precisions: tuple[Precision, ...] = ("tf32", "bf16")
    for precision in precisions:
        spec = scale.spec("mmcl_ssl", precision)
        digests = []
        for _ in range(2):
            set_arithmetic(spec.precision, True, device)
            trainee = Trainee(spec, device)
            for step in range(5):
                trainee.step(*batch(spec, scale.pairs // 4, scale.length - step, step, device))
            digests.append(trainee.digest())
        same = digests[0] == digests[1]
        yield Check(f"the same bits twice in {precision}", " and ".join(digests), same)


def checkpoint(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Copies that a checkpoint makes while training goes on, loaded into new objects."""
    spec = scale.spec("mmcl_ssl", "tf32")
    set_arithmetic(spec.precision, True, device)
    trainee, resumed = Trainee(spec, device), Trainee(spec, device, seed=9)
    data = [batch(spec, scale.pairs // 4, scale.length, step, device) for step in range(4)]
    with tempfile.TemporaryDirectory() as name, Saver(Path(name)) as saver:
        for step in range(2):
            trainee.step(*data[step])
            # The first one makes the pinned memory that the second one uses again.
            _wait(device)
            begun = time.monotonic()
            saver.save(step + 1, trainee.model, trainee.optimizer, {})
            stall = time.monotonic() - begun
        before = trainee.digest()
        trainee.step(*data[2])
        saver.wait()
        load_checkpoint(Path(name), resumed.model, resumed.optimizer)
    yield Check("a checkpoint has the bits of its step", before, resumed.digest() == before)
    resumed.step(*data[2])
    same = resumed.digest() == trainee.digest()
    yield Check("the step after it has the same bits", trainee.digest(), same)
    good = stall < STALL_SECONDS if device.type == "cuda" else None
    yield Check("training waits for its copies", f"{stall:.3f} s", good)


def waiting(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Twenty steps of the loop with loader processes, in which the host must never wait."""
    with tempfile.TemporaryDirectory() as name:
        run = noise_run(scale, Path(name))
        task = Resident(Path(name) / "cache", device).task(
            run.spec, run.fingerprint, run.inputs, Path(name)
        )
        model = Trainee(run.spec, device).model
        training = TrainingRun(task, model, device, lambda event, content: None)
        training.resume(None)
        workers = loader_workers(cores(), device.type == "cuda")
        batches = task.pairs.batches(0, training.last_step, workers)
        ahead = on_device(batches, device)
        for _ in range(4):
            training.step(ahead)
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            for _ in range(20):
                training.step(ahead)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            batches.close()
    if device.type == "cuda":
        yield Check("no step of the loop waits for the GPU", "20 steps", True)
    else:
        yield Check("no step of the loop waits for the GPU", "not checked: no GPU")


def gradient_cache(scale: Scale, device: torch.device) -> Iterator[Check]:
    """A step of two BatchNorm groups taken one after the other against the plain step."""
    spec = scale.spec("mmcl_ssl", "fp32")
    set_arithmetic(spec.precision, True, device)
    plain, cached = Trainee(spec, device, groups=2), Trainee(spec, device)
    cached.encoder = GradientCache(cached.model, 2, compiled=False)
    data = batch(spec, scale.pairs // 4, scale.length, 0, device)
    loss, other = float(plain.step(*data)), float(cached.step(*data))
    off = _distance(_gradients(cached), _gradients(plain))
    good = abs(loss - other) < CACHE_TOLERANCE and off < CACHE_TOLERANCE
    yield Check("the gradient cache is the plain step", f"gradients off by {off:.1e}", good)


def residence(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Evaluation images from each of the three places where they may wait."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    batches = [range(16), range(16, 32), range(32, 40)]
    homes: tuple[Home, ...] = ("map", "device", "pinned")
    for home in homes if device.type == "cuda" else homes[:1]:
        kept = Residence(images, batches, device, home)
        flights = in_flight(partial(_load, kept), batches, device)
        same = all(
            bool((tensor.cpu().numpy() == images[part.start : part.stop]).all())
            for part, [tensor] in zip(batches, flights, strict=True)
        )
        yield Check(f"images that wait in {home} arrive as they are", "to the byte", same)
    if device.type != "cuda":
        yield Check("images that wait in device or pinned memory", "not checked: no GPU")


def speed(scale: Scale, device: torch.device, flops: dict[str, float]) -> Iterator[Check]:
    """Steps with the batch on the device in the arithmetic of both profiles, and their memory.

    Fills `flops` with FLOP/s by arithmetic, for `repro plan`.
    """
    profile = load_profile(scale.profile)
    cost = count(profile, scale.length, 1)
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    known = next((key for key in ("a100", "h100") if key in name.replace("h200", "h100")), None)
    for number, spec in enumerate(
        pretrain_runs(load_profile(name), "cc6m", "mmcl")[0] for name in (scale.profile, scale.fast)
    ):
        set_arithmetic(spec.precision, spec.deterministic, device)
        # What an earlier check left in the caches of the allocator is not this one's.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        reset_peak(device)
        trainee = Trainee(spec, device)
        if spec.compile and device.type == "cuda":
            torch._dynamo.reset()
            trainee.encoder = torch.compile(trainee.encoder)  # type: ignore[assignment]
        data = batch(spec, scale.pairs, scale.length, 0, device)
        for _ in range(3):
            trainee.step(*data)
        _wait(device)
        begun = time.monotonic()
        for _ in range(scale.steps):
            trainee.step(*data)
        _wait(device)
        seconds = (time.monotonic() - begun) / scale.steps

        how = arithmetic(spec.precision, spec)
        flops[how] = scale.pairs * cost.pair_view(kind_of(spec)) / seconds
        text = f"{scale.pairs / seconds:.0f} pairs/s, {flops[how] / 1e12:.2f} TFLOP/s"
        good = None
        if known:
            least = load_assumptions().devices[known].flops(spec.precision, spec)[0]  # type: ignore[index]
            good = flops[how] > SPEED_SHARE * least
            text += f" (at least {SPEED_SHARE * least / 1e12:.1f})"
        yield Check(f"speed, {how}", text, good)

        most = TRAINING_BYTES // (2 if spec.precision == "bf16" else 1)
        peak = peak_bytes(device)
        text = f"peak {peak / 1e9:.1f} GB (at most {most / 1e9:.0f})"
        yield Check(f"memory, {how}", text, peak < most if device.type == "cuda" else None)
        if number == 0 and scale.profile == scale.fast:
            return


def _load(kept: Residence, part: range) -> list[torch.Tensor]:
    return [kept.load(part)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _gradients(trainee: Trainee) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.detach().cpu().double()
        for name, parameter in trainee.model.named_parameters()
        if parameter.grad is not None
    }


def _distance(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over that of `expected`."""
    off = sum(float((gradients[name] - expected[name]).square().sum()) for name in expected)
    return math.sqrt(off / sum(float(tensor.square().sum()) for tensor in expected.values()))
