"""Loader processes and stop signals: a stop leaves a checkpoint, and what follows is bitwise equal."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from repro.events import parse
from repro.launch.packs import Pack, write_pack
from repro.launch.places import Place
from repro.ledger import pending_rows
from repro.profile import pretrain_runs
from repro.runs.layout import standard_inputs
from repro.runs.run import Run, identify
from repro.spec import Profile
from repro.train.loading import load_batches, on_device
from tests.support.synthetic import noise_profile

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than cores
LOADERS = 4
STOPS = int(os.environ.get("REPRO_STOP_ROUNDS", "2"))
"""Stops of one run on its way to the end; the more, the longer the run. REPRO_STOP_ROUNDS sets them."""

EPOCHS = 10 * (STOPS + 1)
OVERRIDES = {
    "pretrain.objectives": {
        "mmcl_ssl": {
            "learning_rate": 1e-3,
            "epochs": EPOCHS,
            "warmup_steps": 4,
            "global_batch_size": 32,
            "norm_batch_size": 32,
        }
    },
    "clean.cells": [
        {
            "datasets": ["cc3m"],
            "pretrain_objectives": ["mmcl_ssl"],
            "clean_sizes": ["100k"],
            "losses": ["mmcl"],
            "learning_rates": [1e-4],
            "global_batch_size": 16,
        }
    ],
    "pretrain.evaluate_every_epochs": EPOCHS // 2,
}


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch `step` is its own number, and the process that made it."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([step]), torch.tensor([os.getpid()])


def test_a_group_that_is_asked_to_stop_keeps_its_loader_processes() -> None:
    """Each stop signal to every loader process: all batches come, in order, from the same ones."""
    batches = load_batches(Numbers(), range(40), LOADERS)
    first = [next(batches) for _ in range(LOADERS)]
    makers = {int(process) for _, process in first}
    assert len(makers) == LOADERS and os.getpid() not in makers
    for process in makers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process, number)

    rest = list(batches)
    assert [int(step) for step, _ in (*first, *rest)] == list(range(40))
    assert {int(process) for _, process in rest} == makers


def test_loader_processes_end_when_their_batches_are_not_wanted_any_more() -> None:
    batches = load_batches(Numbers(), range(1000), LOADERS)
    makers = {int(next(batches)[1]) for _ in range(LOADERS)}
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 5
    assert not any(Path(f"/proc/{process}").exists() for process in makers)


def test_on_the_processor_batches_are_given_on_as_they_are() -> None:
    batches = [(torch.zeros(1), torch.ones(1)) for _ in range(3)]
    for given, batch in zip(on_device(batches, torch.device("cpu")), batches, strict=True):
        assert given[0] is batch[0] and given[1] is batch[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_batches_arrive_whole_and_in_order() -> None:
    device = torch.device("cuda")
    squares = [torch.full((1000, 1000), float(i)).pin_memory() for i in range(20)]
    batches = [(square, torch.tensor([i])) for i, square in enumerate(squares)]
    for i, (images, tokens) in enumerate(on_device(batches, device)):
        assert images.device.type == "cuda"
        assert float((images @ torch.eye(1000, device=device)).mean()) == i == int(tokens)


@pytest.fixture
def profile(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile with its data of noise, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("REPRO_LOADER_WORKERS", str(LOADERS))
    return noise_profile(root, OVERRIDES)


def prepared(profile: Profile, name: str) -> tuple[Run, Path]:
    """The same pre-training under another fingerprint, and its pack."""
    spec = pretrain_runs(profile, "cc3m", "mmcl_ssl")[0]
    run: Run = identify(spec, standard_inputs(spec), name)
    run.save()
    path = Path(f"{name}.json")
    write_pack(Pack((run,), Place((), 1, 1)), path, "repro.worker", 20.0)
    return run, path


def started(pack: Path) -> subprocess.Popen[str]:
    """torchrun with one rank, in a process group of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "repro.worker", str(pack)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def stopped_at_random(pack: Path, rng: random.Random) -> bool:
    """Let a run take some steps, then signal its whole group; False if it ended by itself.

    Counted in steps: in a second, a fast machine takes all that there are.
    """
    process = started(pack)
    assert process.stdout is not None
    losses = (line for line in process.stdout if tells_a_loss(line))
    for _ in itertools.islice(losses, rng.randint(1, 2)):
        pass
    time.sleep(0.1 * rng.random())
    if process.poll() is not None:
        return False

    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_lives(process.pid)
    return True


def tells_a_loss(line: str) -> bool:
    """Whether a line is the event of every tenth step."""
    event = parse(line)
    return bool(event and event["event"] == "metrics" and "loss" in event["values"])


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def rows_of(run: Run) -> list[dict[str, Any]]:
    """Rows without what differs by name or by the clock, and the bits of each."""
    times = ("seconds", "fingerprint", "run_id")
    return [
        {name: value for name, value in record["row"].items() if name not in times}
        | {"bits": record.get("bits")}
        for record in pending_rows(run.work_dir)
    ]


@pytest.mark.slow
@pytest.mark.faults(18)
def test_a_run_with_loader_processes_leaves_a_checkpoint_at_each_stop_and_ends_the_same(
    profile: Profile,
) -> None:
    whole, pack = prepared(profile, "whole")
    started(pack).communicate(timeout=300)
    assert (whole.work_dir / "outcome.json").exists()

    run, pack = prepared(profile, "stopped")
    rng = random.Random(0)
    steps: list[int] = []
    while stopped_at_random(pack, rng):
        found = sorted(run.work_dir.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        assert found, f"no checkpoint after stop {len(steps) + 1}"
        steps.append(max(int(path.name.split("-")[1].split(".")[0]) for path in found))
        if len(steps) == STOPS:
            started(pack).communicate(timeout=300)
            break

    print(f"{len(steps)} stops, checkpoints at steps {steps}")
    assert len(steps) == STOPS and steps == sorted(set(steps))
    assert (run.work_dir / "outcome.json").exists()
    assert rows_of(run) == rows_of(whole) != []
