"""What the worker writes costs the ranks no wait for the disk; its loaders are as many as asked."""

import gc
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repro import worker
from repro.files import read_json
from repro.runs.run import Run
from repro.spec import RunSpec
from repro.train import loop
from repro.train.build import build_model
from repro.train.loop import Task
from tests.support.short_run import (
    CPU,
    STEPS_PER_EPOCH,
    Pairs,
    no_outcomes,
    pretraining_of,
    run_spec,
)

NAME = "0" * 16


def run_worker(
    spec: RunSpec,
    pairs: Any,
    monkeypatch: pytest.MonkeyPatch,
    before_model: Callable[[], object] = lambda: None,
) -> Any:
    """Run `spec` on `pairs` in the folder at hand; the status that it leaves."""

    def task(spec: Any, fingerprint: str, inputs: object, folder: Path) -> Task:
        return Task(spec, fingerprint, folder, pairs, no_outcomes, np.arange(5) == 0, None)

    def start_model(*_: object) -> tuple[Any, None]:
        before_model()
        return build_model(spec.model, 0, "fp32"), None

    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    monkeypatch.setattr(worker, "STATUS_SECONDS", -1.0)
    resident: Any = SimpleNamespace(device=CPU, task=task, start_model=start_model)
    Run(spec, NAME, {}, "code").save()
    worker.run_one(NAME, Path("work"), resident, 2, "code")
    return read_json(Path("work") / NAME / "status.json")


def test_no_status_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush takes 10 to 50 ms on a network's file system, and nobody resumes from the file."""
    spec = run_spec(optimizer_state="fresh")
    flushed = []
    fsync = os.fsync
    monkeypatch.chdir(tmp_path)

    def noted(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    class Watched(Pairs):
        def batches(self, start: int, stop: int, workers: int) -> Any:
            assert workers == 2
            return super().batches(start, stop, workers)

    monkeypatch.setattr(os, "fsync", noted)
    status = run_worker(spec, Watched(), monkeypatch)
    assert status["step"] == len(Pairs())
    assert status["total_steps"] == len(Pairs())
    assert any("outcome.json" in name for name in flushed), "what counts is flushed"
    assert not [name for name in flushed if "status" in name]


def test_a_run_that_ends_before_its_schedule_is_done_at_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model_age` ends a pre-training: the time left is that to its end."""
    spec = pretraining_of(run_spec(optimizer_state="fresh"), model_age=1, loss="mmcl")
    monkeypatch.chdir(tmp_path)
    status = run_worker(spec, Pairs(), monkeypatch)
    assert status["step"] == STEPS_PER_EPOCH
    assert status["total_steps"] == STEPS_PER_EPOCH


def test_the_model_of_the_run_before_is_gone_when_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP ties it into cycles, and two do not fit beside each other."""
    spec = run_spec(optimizer_state="fresh")
    gone = []
    monkeypatch.chdir(tmp_path)
    gc.disable()
    try:
        before = torch.nn.Identity()
        before.itself, seen = [before], weakref.ref(before)  # type: ignore[assignment]
        del before
        run_worker(spec, Pairs(), monkeypatch, lambda: gone.append(seen() is None))
    finally:
        gc.enable()
    assert gone == [True]


def test_runs_get_the_loaders_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    for name in ("repeatable", "start", "stop"):
        monkeypatch.setattr(worker.distributed, name, lambda *_: None)
    monkeypatch.setattr(worker.events, "die_with_parent", lambda: None)
    monkeypatch.setattr(worker, "run_one", lambda *told: asked.append(told[3]))
    monkeypatch.setenv("REPRO_LOADER_WORKERS", "3")
    job = {"threads": 1, "devices": [], "work": f"{tmp_path}", "runs": ["one", "two"]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    worker.main(f"{tmp_path}/job.json")
    assert asked == [3, 3]
