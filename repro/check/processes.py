"""Checks that start processes as the launcher does: the worker, stopped and resumed; all GPUs."""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from repro.check.noise import SCALES, Check, Scale, Trainee, batch, noise_run
from repro.check.training import TOLERANCES, WITHOUT_INDUCTOR, distance, gradients
from repro.data.memory import cores, devices
from repro.files import replace_json
from repro.launch.jobs import Job, write_job
from repro.launch.places import Place
from repro.launch.torchrun import Torchrun
from repro.ledger import pending_rows
from repro.runs.layout import WEIGHTS
from repro.spec import RunSpec
from repro.train.loop import build_encoder
from repro.train.process import distributed
from repro.train.process.device import set_arithmetic

STOP_STEP, GRACE_SECONDS = 10, 100.0
RANKS_TOLERANCE = 2e-3
"""Largest difference of losses over six steps between one rank and all."""
SCALING = 0.9
"""Least speed of all GPUs over that of one times their number."""
TIMEOUT = 1800
"""Seconds for the ranks of `ranks`, which compile while all others do."""


def worker(scale: Scale) -> Iterator[Check]:
    """A run by the worker under the launcher's environment, and one that is stopped and resumed."""
    # As at full scale, where no decoded set fits: JPEG files are decoded at every step.
    os.environ["REPRO_MEMORY_BYTES"] = str(10**7)
    # The second has compiled towers, captions in parts, bfloat16, and all GPUs.
    for profile, number in {scale.profile: 1, scale.fast: most_ranks(scale)}.items():
        place = Place(devices=(), ranks=number, threads=1)
        if scale.gpu:
            threads = max(1, min(8, cores() // number))
            place = Place(tuple(devices()[:number]), number, threads)
        yield from _twice(scale, profile, place)


def most_ranks(scale: Scale) -> int:
    """The most ranks that divide the eight BatchNorm groups of the paper's batch."""
    gpus = torch.cuda.device_count() if scale.gpu else 2
    return max(number for number in (1, 2, 4, 8) if number <= gpus)


def _twice(scale: Scale, profile: str, place: Place) -> Iterator[Check]:
    """The run as a whole, then with a SIGTERM after STOP_STEP."""
    left = []
    with tempfile.TemporaryDirectory() as name:
        run = noise_run(scale, Path(name) / "data", profile, "mmcl_ssl", place.ranks)
        for stops in ([0], [STOP_STEP, 0]):
            attempts = len(stops)
            work = Path(name) / str(attempts)
            run.save(work)
            path = work / "job.json"
            job = write_job(Job((run,), place), path, "repro.worker", GRACE_SECONDS, work=work)
            for stop_step in stops:
                _run_worker(Torchrun(job, path), stop_step)

            folder = work / run.fingerprint
            outcome = json.loads((folder / "outcome.json").read_bytes())
            rows = [row.model_copy(update={"seconds": 0.0}) for row in pending_rows(folder)]
            yield Check(
                f"{place.ranks} rank(s) end a run of {profile} in {attempts} attempt(s)",
                f"{outcome['attempts']} attempt(s), {len(rows)} rows",
                outcome["status"] == "completed" and outcome["attempts"] == attempts,
            )
            left.append([rows, *(outcome["files"][name] for name in WEIGHTS)])
    same = left[0] == left[1]
    yield Check("rows and weights of both", "equal" if same else "unlike", same)


def _run_worker(torchrun: Torchrun, stop_step: int) -> None:
    """To its end, or with SIGTERM after the metrics of `stop_step`."""
    try:
        for event in torchrun.events:
            if stop_step and event["event"] == "metrics" and event["step"] >= stop_step:
                return
    finally:
        torchrun.stop()


def ranks(scale: Scale) -> Iterator[Check]:
    """Losses, statistics, compiled graphs and speed of all GPUs against one."""
    count = most_ranks(scale)
    yield from compiled_ranks(scale, count)
    one = _on_ranks(scale, 1, "plain")
    every = _on_ranks(scale, count, "plain")
    if count == 1:
        yield Check("several ranks over NCCL", "not checked: one GPU here")
        return
    off = max(abs(a - b) for a, b in zip(one["losses"], every["losses"], strict=True))
    yield Check(
        f"losses of {count} ranks are those of one",
        f"largest difference {off:.1e} of {one['losses'][0]:.3f}",
        off < RANKS_TOLERANCE,
    )
    equal = every["buffers_equal"]
    yield Check("BatchNorm is equal on all ranks before an evaluation", str(equal), equal)
    scaling = every["pairs_per_second"] / one["pairs_per_second"] / count
    yield Check(
        f"speed of {count} ranks over {count} times that of one",
        f"{scaling:.0%}",
        scale.bound(scaling > SCALING),
    )


def compiled_ranks(scale: Scale, count: int) -> Iterator[Check]:
    """Steps of `paper_lean` on so many ranks, compiled, against eager ones: captions of random
    lengths in parts, bfloat16.
    """
    result = _on_ranks(scale, count, "compiled")
    graphs = result["graphs"]
    text = f"{graphs} in {scale.batches} batches, {result['seconds']:.0f} s to the first"
    yield Check(f"compiled graphs of {count} ranks", text, graphs == 1)

    off = result["loss_off"]
    gradients_off = result["gradients_off"]
    text = f"loss off by {off:.1e} at most, gradients of the last by {gradients_off:.1e}"
    good = max(off, gradients_off) < TOLERANCES["bf16"]
    yield Check(f"compiled steps of {count} ranks are eager ones", text, good)


def _on_ranks(scale: Scale, number: int, what: str) -> dict[str, Any]:
    """What rank 0 of so many leaves."""
    (name,) = (name for name, of in SCALES.items() if of == scale)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun.append(f"--nproc-per-node={number}")
        command = [*torchrun, "-m", "repro.check.processes", str(out), name, what]
        subprocess.run(command, check=True, timeout=TIMEOUT)
        return dict(json.loads(out.read_bytes()))


def _rank(out: Path, scale: Scale, what: str) -> None:
    """One rank, started by torchrun; rank 0 writes the result."""
    distributed.repeatable(threads=1)
    device = distributed.start()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if scale.gpu else "gloo")
    measure = _compiled if what == "compiled" else _plain
    result = measure(scale, device)
    if distributed.rank() == 0:
        replace_json(out, result)
    distributed.stop()


def _lean(scale: Scale, pairs: int) -> RunSpec:
    """The pre-training of `paper_lean` on so many pairs a rank."""
    spec = scale.lean()
    sizes = {"global_batch_size": pairs * distributed.ranks(), "norm_batch_size": pairs}
    schedule = spec.schedule.model_copy(update=sizes)
    return spec.model_copy(update={"schedule": schedule})


def _compiled(scale: Scale, device: torch.device) -> dict[str, Any]:
    """Losses, gradients and graphs of steps whose encoder is compiled under DDP."""
    number = distributed.ranks()
    pairs = min(scale.pairs, 16)
    spec = _lean(scale, pairs)
    set_arithmetic(spec.precision, spec.deterministic, device)

    eager = Trainee(spec, device)
    plain = spec.model_copy(update={"compile": False})
    eager.encoder = build_encoder(eager.model, plain, device)

    compiled = Trainee(spec, device)
    compiled.encoder = build_encoder(compiled.model, spec, device)
    if not scale.gpu:
        module = getattr(compiled.encoder, "module", compiled.encoder)
        module.compile(backend=WITHOUT_INDUCTOR)

    begun = time.monotonic()
    first_seconds = 0.0
    off = []
    for step in range(scale.batches):
        seed = step * number + distributed.rank()
        data = batch(spec, pairs, scale.length, seed, device, shortest=4)
        # At the rate 0 no difference of one step is carried into the next.
        loss = float(compiled.step(*data, rate=0.0))
        if step == 0:
            first_seconds = time.monotonic() - begun
        off.append(abs(float(eager.step(*data, rate=0.0)) - loss))
    return {
        "graphs": torch._dynamo.utils.counters["aot_autograd"]["total"],
        "seconds": first_seconds,
        "loss_off": max(off),
        "gradients_off": distance(gradients(compiled), gradients(eager)),
    }


def _plain(scale: Scale, device: torch.device) -> dict[str, Any]:
    """Losses and BatchNorm's buffers in float32, and the speed of `paper_lean`."""
    rank = distributed.rank()
    number = distributed.ranks()
    spec = scale.spec("mmcl", "fp32")
    set_arithmetic("fp32", True, device)

    # As many pairs and BatchNorm groups in all, however many ranks share them.
    groups = 8 if scale.gpu else 2
    trainee = Trainee(spec, device, groups=groups // number)
    trainee.encoder = DistributedDataParallel(trainee.encoder)
    losses = []
    for step in range(6):
        data = batch(spec, pairs=8 * groups, length=20, seed=step, device=device)
        images, tokens = (part.chunk(number, dim=1)[rank] for part in data)
        losses.append(float(trainee.step(images, tokens)))

    distributed.broadcast(trainee.model.buffers())
    means = trainee.model.visual.bn1.running_mean
    copies = [torch.empty_like(means) for _ in range(number)]
    dist.all_gather(copies, means)

    # Two models and a full batch would not fit a GPU of 40 GB.
    del trainee
    gc.collect()
    # In the arithmetic of `paper_lean`: the slower steps of float32 hide what ranks exchange.
    fast = _lean(scale, scale.pairs).model_copy(update={"compile": scale.gpu})
    set_arithmetic(fast.precision, fast.deterministic, device)
    single = Trainee(fast, device)
    single.encoder = build_encoder(single.model, fast, device)
    data = batch(fast, scale.pairs, scale.length, rank, device)
    return {
        "losses": losses,
        "buffers_equal": all(torch.equal(copies[0], other) for other in copies),
        "pairs_per_second": number * single.pairs_per_second(data, scale.steps),
    }


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), SCALES[sys.argv[2]], sys.argv[3])
