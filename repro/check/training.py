"""Checks of training: the same function on every device, the same bits every time, on any ranks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.check.results import Check
from repro.check.work import Scale, Trainee, batch
from repro.train.process.checkpoint import load_checkpoint, write_checkpoint
from repro.train.process.device import WORKSPACE, set_arithmetic
from repro.train.process.tensor_files import model_tensors, optimizer_tensors

TOLERANCES = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 2e-1}
"""Largest difference between GPU and CPU: of the loss, and of the gradients over their norm."""

RANKS_TOLERANCE = 2e-3
"""Largest difference of losses over six steps between one rank and two."""

RANKS_TIMEOUT = 240


def machine_environment(scale: Scale, device: torch.device) -> Iterator[Check]:
    """What the machine is."""
    name = "environment"
    cuda = device.type == "cuda"
    what = torch.cuda.get_device_name(device) if cuda else "cpu"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, {what}"
    yield Check(name, "device", versions, cuda or scale.profile_name != "paper")

    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield Check(name, "TF32 as torch starts (matmul, cuDNN)", str(flags))
    yield Check(name, WORKSPACE, os.environ.get(WORKSPACE, "unset"))
    if cuda:
        free, total = torch.cuda.mem_get_info(device)
        libraries = f"cuDNN {torch.backends.cudnn.version()}, NCCL {torch.cuda.nccl.version()}"
        memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, {os.cpu_count()} cores"
        yield Check(name, "libraries, memory", f"{libraries}, {memory}")


def equality(scale: Scale, device: torch.device) -> Iterator[Check]:
    """One step on this device against one in float32 on the CPU: loss and gradients."""
    cpu = torch.device("cpu")
    pairs = min(8, scale.pairs)
    images, tokens = batch(scale, pairs, 1, 20, 0, cpu)

    set_arithmetic("fp32", True, cpu)
    reference = Trainee(scale.spec("mmcl", "fp32"), cpu)
    expected_loss = float(reference.step(images, tokens))
    expected = _gradients(reference)
    size = _norm(expected)

    for precision, allowed in TOLERANCES.items():
        spec = scale.spec("mmcl", precision)
        set_arithmetic(spec.precision, True, device)
        trainee = Trainee(spec, device)
        loss = float(trainee.step(images.to(device), tokens.to(device)))

        gradients = _gradients(trainee)
        differences = {key: gradients[key] - expected[key] for key in expected}
        off = _norm(differences) / size
        good = off < allowed and abs(loss - expected_loss) < allowed
        found = f"loss {loss:.5f} against {expected_loss:.5f}, gradients off by {off:.1e}"
        yield Check("equality", f"step in {precision} = on the CPU", found, good)


def same_bits(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Five MMCL + SSL steps with captions of changing length, twice."""
    pairs = scale.pairs // 4
    for precision in ("tf32", "bf16"):
        for deterministic in (True, False):
            spec = scale.spec("mmcl_ssl", precision)
            marks = []
            for _ in range(2):
                set_arithmetic(spec.precision, deterministic, device)
                trainee = Trainee(spec, device)
                for step in range(5):
                    length = scale.short - 5 + step
                    trainee.step(*batch(scale, pairs, 2, length, step, device))
                marks.append(trainee.digest())

            how = "deterministic" if deterministic else "fast"
            same = marks[0] == marks[1]
            verdict = same if deterministic else None
            found = "the same bits" if same else f"{marks[0]} and {marks[1]}"
            yield Check("repeatable", f"{precision}, {how}", found, verdict)


def resume(scale: Scale, device: torch.device) -> Iterator[Check]:
    """A checkpoint, loaded into new objects, and three more steps of both."""
    spec = scale.spec("mmcl_ssl", "tf32")
    set_arithmetic(spec.precision, True, device)
    pairs = scale.pairs // 4
    going_on = Trainee(spec, device)
    resumed = Trainee(spec, device, seed=9)
    for step in range(2):
        going_on.step(*batch(scale, pairs, 2, scale.short, step, device))

    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        tensors = model_tensors(going_on.model)
        moments = optimizer_tensors(going_on.model, going_on.optimizer)
        copied = time.monotonic() - begun

        begun = time.monotonic()
        write_checkpoint(Path(name), 2, tensors, moments, {})
        written = time.monotonic() - begun
        found = load_checkpoint(Path(name), resumed.model, resumed.optimizer)

    for step in range(2, 5):
        data = batch(scale, pairs, 2, scale.short, step, device)
        going_on.step(*data)
        resumed.step(*data)
    marks = going_on.digest(), resumed.digest()
    same = found == (2, {}) and marks[0] == marks[1]
    yield Check("resume", "after a checkpoint", "the same bits" if same else str(marks), same)
    yield Check("resume", "cost", f"copies {copied:.2f} s, writing {written:.2f} s")


def several_ranks(scale: Scale, device: torch.device) -> Iterator[Check]:
    """One rank with the backend of training, and two ranks that share the device through gloo."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    found = {}
    for count, how in ((1, backend), (2, "gloo")):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "found.json"
            error = _on_ranks(count, [scale.profile_name, how, str(out)])
            if error:
                yield Check("ranks", f"{count} x {how}", error, False)
                return
            found[count] = json.loads(out.read_bytes())
            yield Check("ranks", f"{count} x {how}", "ran", True)

    one, two = found[1], found[2]
    off = max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))
    losses = f"largest difference {off:.1e} of {one['losses'][0]:.3f}"
    yield Check("ranks", "losses of two ranks = of one", losses, off < RANKS_TOLERANCE)

    equal = two["buffers_equal"]
    yield Check("ranks", "BatchNorm statistics before an evaluation", _equal(equal), equal)
    good = two["gathered"] == 7 and two["any_rank"]
    yield Check("ranks", "rows gathered, a flag of one rank seen", str(good), good)


def _on_ranks(count: int, arguments: list[str]) -> str:
    """Start the rank program so many times; the end of its errors if it failed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *launcher, "-m", "repro.check.rank", *arguments]
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = started.communicate(timeout=RANKS_TIMEOUT)
    except subprocess.TimeoutExpired:
        # Asked to end, torchrun ends its ranks; killed, it would leave them.
        started.terminate()
        started.communicate()
        return f"not done after {RANKS_TIMEOUT} s"
    return errors[-600:] if started.returncode else ""


def _equal(same: bool) -> str:
    return "equal on all ranks" if same else "unlike on two ranks"


def _gradients(trainee: Trainee) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.detach().cpu().double()
        for name, parameter in trainee.model.named_parameters()
        if parameter.grad is not None
    }


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    squares = [float(tensor.square().sum()) for tensor in tensors.values()]
    return math.sqrt(sum(squares))
