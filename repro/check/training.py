"""Checks of one process: the same function on every device, no waiting, rates."""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.check.noise import CPU, Check, Scale, Trainee, batch, noise_run
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
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from repro.worker import Resident

TOLERANCES: dict[Precision, float] = {"fp32": 5e-3, "tf32": 5e-2, "bf16": 5e-1}
"""Largest difference between GPU and CPU: of the loss, and of the gradients over their norm; those
of another model differ by more than 1.
"""
CACHE_TOLERANCE = 1e-3
TRAINING_BYTES = 42 * 10**9
"""Most memory of a step on 256 pairs of RN50 in float32."""
SPEED_SHARE = 0.8
"""Of the lowest rate that specs/plan.yaml assumes: below it, the forecast does not hold."""
FLOPS: dict[str, float] = {}
"""FLOP/s by arithmetic, as `speed` measured them, for `repro plan`."""


def equality(scale: Scale) -> Iterator[Check]:
    """One step on this device against one in float32 on the CPU: loss and gradients."""
    set_arithmetic("fp32", True, CPU)
    data = batch(scale.spec(), 8, 20, 0, CPU)
    reference = Trainee(scale.spec(), CPU)
    expected_loss, expected = float(reference.step(*data)), _gradients(reference)

    for precision, allowed in TOLERANCES.items():
        spec = scale.spec("mmcl", precision)
        set_arithmetic(precision, True, scale.device)
        trainee = Trainee(spec, scale.device)
        loss = float(trainee.step(*(tensor.to(scale.device) for tensor in data)))
        off = _distance(_gradients(trainee), expected)
        text = f"loss {loss:.5f} against {expected_loss:.5f}, gradients off by {off:.1e}"
        good = max(off, abs(loss - expected_loss)) < allowed
        yield Check(f"a step in {precision} is that on the CPU", text, good)


def waiting(scale: Scale) -> Iterator[Check]:
    """Twenty steps of the loop with loader processes, in which the host must never wait."""
    with tempfile.TemporaryDirectory() as name:
        run = noise_run(scale, Path(name), scale.profile)
        task = Resident(Path(name) / "cache", scale.device).task(
            run.spec, run.fingerprint, run.inputs, Path(name)
        )
        model = Trainee(run.spec, scale.device).model
        training = TrainingRun(task, model, scale.device, lambda event, content: None)
        training.resume(None)
        workers = loader_workers(cores(), scale.gpu)
        batches = task.pairs.batches(0, training.last_step, workers)
        ahead = on_device(batches, scale.device, 1)
        for _ in range(4):
            training.step(ahead)
        set_mode = torch.cuda.set_sync_debug_mode if scale.gpu else lambda mode: None
        try:
            set_mode("error")
            for _ in range(20):
                training.step(ahead)
        finally:
            set_mode("default")
            batches.close()
    text = "20 steps" if scale.gpu else "not checked: no GPU"
    yield Check("no step of the loop waits for the GPU", text, scale.bound(True))


def gradient_cache(scale: Scale) -> Iterator[Check]:
    """A step of two BatchNorm groups taken one after the other against the plain step."""
    spec, device = scale.spec("mmcl_ssl", "fp32"), scale.device
    set_arithmetic("fp32", True, device)
    plain, cached = Trainee(spec, device, groups=2), Trainee(spec, device)
    cached.encoder = GradientCache(cached.model, 2, compiled=False)
    data = batch(spec, scale.pairs // 4, scale.length, 0, device)
    loss, other = float(plain.step(*data)), float(cached.step(*data))
    off = _distance(_gradients(cached), _gradients(plain))
    good = max(off, abs(loss - other)) < CACHE_TOLERANCE
    yield Check("the gradient cache is the plain step", f"gradients off by {off:.1e}", good)


def copies(scale: Scale) -> Iterator[Check]:
    """Batches that are copied to the device while the one before is at work."""
    generator = torch.Generator().manual_seed(0)
    shape = 8, 16, 3, 64, 64
    batches = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    pinned = ([part] for part in (batches.pin_memory() if scale.gpu else batches))
    arrived = torch.stack([part.clone() for [part] in on_device(pinned, scale.device)])
    same = torch.equal(batches, arrived.cpu())
    yield Check("batches that are copied ahead arrive as they are", "to the byte", same)


def speed(scale: Scale) -> Iterator[Check]:
    """Steps with the batch on the device in the arithmetic of both profiles, and their memory.

    Fills FLOPS.
    """
    device = scale.device
    cost = count(load_profile(scale.profile), scale.length, 1)
    name = torch.cuda.get_device_name(device).lower() if scale.gpu else ""
    known = next((key for key in ("a100", "h100") if key in name.replace("h200", "h100")), None)
    for profile in dict.fromkeys((scale.profile, scale.fast)):
        spec = pretrain_runs(load_profile(profile), "cc6m", "mmcl")[0]
        spec = spec.model_copy(update={"text_parts": 1})
        set_arithmetic(spec.precision, spec.deterministic, device)
        # What an earlier check left in the caches of the allocator is not this one's.
        gc.collect()
        torch.cuda.empty_cache()
        reset_peak(device)
        trainee = Trainee(spec, device)
        if spec.compile and scale.gpu:
            torch._dynamo.reset()
            trainee.encoder = torch.compile(trainee.encoder)  # type: ignore[assignment]
        data = batch(spec, scale.pairs, scale.length, 0, device)
        rate = trainee.pairs_per_second(data, scale.steps)

        how = arithmetic(spec.precision, spec)
        FLOPS[how] = rate * cost.pair_view(kind_of(spec))
        text = f"{rate:.0f} pairs/s, {FLOPS[how] / 1e12:.2f} TFLOP/s"
        good = None
        if known:
            assumed = load_assumptions().devices[known].flops(spec.precision, spec)  # type: ignore[index]
            least = SPEED_SHARE * assumed[0]
            good = FLOPS[how] > least
            text += f" (at least {least / 1e12:.1f})"
        yield Check(f"speed, {how}", text, good)

        most = TRAINING_BYTES // (2 if spec.precision == "bf16" else 1)
        peak = peak_bytes(device)
        text = f"peak {peak / 1e9:.1f} GB (at most {most / 1e9:.0f})"
        yield Check(f"memory, {how}", text, scale.bound(peak < most))


def _gradients(trainee: Trainee) -> torch.Tensor:
    """All gradients as one vector."""
    parts = [parameter.grad for parameter in trainee.model.parameters()]
    return torch.cat([part.detach().cpu().double().flatten() for part in parts if part is not None])


def _distance(gradients: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of `expected`."""
    return float((gradients - expected).norm() / expected.norm())
