"""Checks that start processes as the launcher does: the worker, stopped and resumed; all GPUs."""

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

from repro.check.noise import Check, Scale, Trainee, batch, noise_run, scale_here
from repro.files import replace_json
from repro.launch.packs import Pack, write_pack
from repro.launch.places import Place, cores, devices
from repro.launch.torchrun import Torchrun
from repro.ledger import pending_rows
from repro.runs.layout import WEIGHTS
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
TIMEOUT = 1800
"""Seconds for the ranks of `ranks`, which compile while all others do."""


def worker(scale: Scale) -> Iterator[Check]:
    """A run by the worker under the launcher's environment, and one that is stopped and resumed."""
    # As at full scale, where no decoded set fits: JPEG files are decoded at every step.
    os.environ["REPRO_MEMORY_BYTES"] = str(10**7)
    place = Place(tuple(devices()[:1]), 1, min(8, cores())) if scale.gpu else Place((), 1, 1)
    # The second has compiled towers, captions in parts and bfloat16.
    for profile in dict.fromkeys((scale.profile, scale.fast)):
        yield from _twice(scale, profile, place)


def _twice(scale: Scale, profile: str, place: Place) -> Iterator[Check]:
    """The run as a whole, then with a SIGTERM after STOP_STEP."""
    left = []
    with tempfile.TemporaryDirectory() as name:
        run = noise_run(scale, Path(name) / "data", profile)
        for stops in ([0], [STOP_STEP, 0]):
            work = Path(name) / str(len(stops))
            run.save(work)
            path, folder = work / "pack.json", work / run.fingerprint
            pack = write_pack(Pack((run,), place), path, "repro.worker", GRACE_SECONDS, work=work)
            for stop_step in stops:
                _run_worker(Torchrun(pack, path), stop_step)

            outcome = json.loads((folder / "outcome.json").read_bytes())
            rows = [item["row"] | {"seconds": 0} for item in pending_rows(folder)]
            yield Check(
                f"the worker ends a run of {profile} in {len(stops)} attempt(s)",
                f"{outcome['attempts']} attempt(s), {len(rows)} rows",
                (outcome["status"], outcome["attempts"]) == ("completed", len(stops)),
            )
            left.append([rows, *(outcome["files"][name] for name in WEIGHTS)])
            if len(stops) == 1:
                share = outcome["data_wait_seconds"] / outcome["seconds"]
                yield Check("it waits for data", f"{share:.1%}", scale.bound(share < WAIT_SHARE))
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
    # What divides the eight BatchNorm groups of the paper's batch.
    gpus = torch.cuda.device_count() if scale.gpu else 2
    count = max(number for number in (1, 2, 4, 8) if number <= gpus)
    results = []
    for number in sorted({1, count}):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "result.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={number}", "-m", "repro.check.processes", str(out)]
            command += ["compiled"] * (number == count)
            subprocess.run(command, check=True, timeout=TIMEOUT)
            results.append(json.loads(out.read_bytes()))
    one, every = results[0], results[-1]

    graphs = every["graphs"]
    yield Check(f"compiled graphs of {count} ranks", str(graphs), graphs <= MOST_GRAPHS)
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


def _rank(out: Path, compiled: bool) -> None:
    """One rank, started by torchrun; rank 0 writes the result. `compiled`: count graphs too."""
    scale = scale_here()
    distributed.repeatable(threads=1)
    device = distributed.start()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if scale.gpu else "gloo")
    rank, number = distributed.rank(), distributed.ranks()

    # As many pairs and BatchNorm groups in all, however many ranks share them.
    groups = 8 if scale.gpu else 2
    spec = scale.spec("mmcl", "fp32")
    set_arithmetic("fp32", True, device)
    trainee, single = (Trainee(spec, device, groups=of_rank) for of_rank in (groups // number, 1))
    for each in (trainee, single):
        each.encoder = DistributedDataParallel(each.encoder)
    losses = []
    for step in range(6):
        shares = (part.chunk(number, dim=1) for part in batch(spec, 8 * groups, 20, step, device))
        losses.append(float(trainee.step(*(share[rank] for share in shares))))
    distributed.broadcast(trainee.model.buffers())
    means = trainee.model.visual.bn1.running_mean
    copies = [torch.empty_like(means) for _ in range(number)]
    dist.all_gather(copies, means)

    data = batch(spec, scale.pairs, scale.length, rank, device)
    rate = number * single.pairs_per_second(data, scale.steps)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if compiled:
        backend = "inductor" if scale.gpu else "aot_eager"
        single.encoder = torch.compile(single.encoder, backend=backend)  # type: ignore[assignment]
        for step, length in enumerate((20, 24, 17, 23, 18, 21)):
            single.step(*batch(spec, 8, length, step, device))

    if rank == 0:
        replace_json(
            out,
            {
                "losses": losses,
                "buffers_equal": all(torch.equal(copies[0], other) for other in copies),
                "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
                "pairs_per_second": rate,
            },
        )
    distributed.stop()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), "compiled" in sys.argv)
