"""Checks that start processes as the launcher does: the worker, stopped and resumed; all GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from repro.check.noise import FULL, TOY, Check, Scale, Trainee, batch, noise_run
from repro.files import read_json
from repro.launch.packs import Pack, write_pack
from repro.launch.places import Place, cores, devices
from repro.launch.torchrun import Torchrun
from repro.ledger import pending_rows
from repro.spec import Precision
from repro.train.process import distributed
from repro.train.process.device import set_arithmetic

WAIT_SHARE = 0.05
"""Share of its time that a run on a GPU may wait for data."""
STOP_STEP, GRACE_SECONDS = 10, 100.0
RANKS_TOLERANCE = 2e-3
"""Largest difference of losses over six steps between one rank and all."""
SCALING = 0.9
"""Least speed of all GPUs over that of one times their number."""
MOST_GRAPHS = 3
"""Graphs that a compiled encoder may need for captions of six lengths."""
TIMEOUT = 500


def worker(scale: Scale, device: torch.device) -> Iterator[Check]:
    """A run by the worker under the launcher's environment, and one that is stopped and resumed."""
    gpu = device.type == "cuda"
    # As at full scale, where no decoded set fits: JPEG files are decoded at every step.
    os.environ["REPRO_MEMORY_BYTES"] = str(10**7)
    place = Place(tuple(devices()[:1]) if gpu else (), 1, min(8, cores()) if gpu else 1)
    precisions: tuple[Precision, ...] = ("tf32", "bf16")
    for precision in precisions:
        yield from _twice(scale, precision, place)
    del os.environ["REPRO_MEMORY_BYTES"]


def _twice(scale: Scale, precision: Precision, place: Place) -> Iterator[Check]:
    """The run as a whole, then with a SIGTERM after STOP_STEP."""
    left = []
    with tempfile.TemporaryDirectory() as name:
        run = noise_run(scale, Path(name) / "data", precision)
        for stops in ([0], [STOP_STEP, 0]):
            work = Path(name) / str(len(stops))
            run.save(work)
            path, folder = work / "pack.json", work / run.fingerprint
            pack = write_pack(Pack((run,), place), path, "repro.worker", GRACE_SECONDS, work=work)
            for stop_step in stops:
                _run_worker(Torchrun(pack, path), stop_step)

            what = f"the worker ends a run in {precision} in {len(stops)} attempt(s)"
            outcome = read_json(folder / "outcome.json")
            if outcome is None:
                yield Check(what, "no outcome; see its output", False)
                return
            rows = [item["row"] | {"seconds": 0} for item in pending_rows(folder)]
            good = outcome["status"] == "completed" and outcome["attempts"] == len(stops)
            yield Check(what, f"{outcome['attempts']} attempt(s), {len(rows)} rows", good)
            files = outcome["files"]
            left.append([rows, files["model.safetensors"], files["optimizer.safetensors"]])
            if len(stops) == 1:
                share = outcome["data_wait_seconds"] / outcome["seconds"]
                good = share < WAIT_SHARE if place.devices else None
                yield Check("it waits for data", f"{share:.1%}", good)
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


def ranks(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Losses, statistics, compiled graphs and speed of all GPUs against one."""
    # What divides the eight BatchNorm groups of the paper's batch.
    gpus = torch.cuda.device_count() if device.type == "cuda" else 2
    count = max(number for number in (1, 2, 4, 8) if number <= gpus)
    results = {}
    for number in sorted({1, count}):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "result.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={number}", "-m", "repro.check.processes"]
            command += [scale.profile, str(out)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode:
                yield Check(f"{number} ranks", done.stderr[-600:], False)
                return
            results[number] = json.loads(out.read_bytes())
    one, every = results[1], results[count]

    good = every["graphs"] <= MOST_GRAPHS
    yield Check(f"compiled graphs of {count} ranks", f"{every['graphs']}", good)
    if count == 1:
        yield Check("several ranks over NCCL", "not checked: one GPU here")
        return
    off = max(abs(a - b) for a, b in zip(one["losses"], every["losses"], strict=True))
    text = f"largest difference {off:.1e} of {one['losses'][0]:.3f}"
    yield Check(f"losses of {count} ranks are those of one", text, off < RANKS_TOLERANCE)
    equal = every["buffers_equal"]
    yield Check("BatchNorm is equal on all ranks before an evaluation", str(equal), equal)
    scaling = every["pairs_per_second"] / one["pairs_per_second"] / count
    good = scaling > SCALING if device.type == "cuda" else None
    yield Check(f"speed of {count} ranks over {count} times that of one", f"{scaling:.0%}", good)


def _rank(profile: str, out: Path) -> None:
    """One rank, started by torchrun; rank 0 writes the result."""
    scale = FULL if profile == FULL.profile else TOY
    distributed.repeatable(threads=1)
    device = distributed.start()
    gpu = device.type == "cuda"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo")
    rank, number = distributed.rank(), distributed.ranks()

    # As many pairs and BatchNorm groups in all, however many ranks share them.
    groups = 8 if gpu else 2
    pairs = 8 * groups
    spec = scale.spec("mmcl", "fp32")
    set_arithmetic("fp32", True, device)
    trainee = Trainee(spec, device, groups=groups // number)
    trainee.encoder = DistributedDataParallel(trainee.encoder)
    mine = slice(rank * pairs // number, (rank + 1) * pairs // number)
    losses = []
    for step in range(6):
        images, tokens = batch(spec, pairs, 20, step, device)
        losses.append(float(trainee.step(images[:, mine], tokens[:, mine])))
    distributed.share_buffers(trainee.model)
    means = trainee.model.visual.bn1.running_mean
    copies = [torch.empty_like(means) for _ in range(number)]
    dist.all_gather(copies, means)

    compiled = Trainee(spec, device)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled.encoder = torch.compile(  # type: ignore[assignment]
        DistributedDataParallel(compiled.encoder), backend="inductor" if gpu else "aot_eager"
    )
    for step, length in enumerate((20, 24, 17, 23, 18, 21)):
        compiled.step(*batch(spec, 8, length, step, device))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    timed = Trainee(spec, device)
    timed.encoder = DistributedDataParallel(timed.encoder)
    data = batch(spec, scale.pairs, scale.length, rank, device)
    rate = number * timed.pairs_per_second(data, scale.steps)
    if rank == 0:
        result = {
            "losses": losses,
            "buffers_equal": all(torch.equal(copies[0], other) for other in copies),
            "graphs": graphs,
            "pairs_per_second": rate,
        }
        out.write_text(json.dumps(result), encoding="utf-8")
    distributed.stop()


if __name__ == "__main__":
    _rank(sys.argv[1], Path(sys.argv[2]))
