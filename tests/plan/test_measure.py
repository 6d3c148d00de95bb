"""What is timed for a forecast: steps that fit the device, and evaluations as runs will make them."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import torch

from repro.launch.places import GPU_ENVIRONMENT, TRAINING_ENVIRONMENT, Place
from repro.plan import calibrate, measure
from repro.plan.work import work_of
from repro.profile import load_profile, pretrain_runs
from repro.train.loop import Task

BUDGET = 10.0


@pytest.mark.parametrize(
    ("seconds_per_pair", "pairs"), [(1e-6, 256), (0.0195, 256), (0.02, 128), (1.0, 4), (99.0, 2)]
)
def test_a_timed_step_takes_a_group_of_batch_norm_at_most_or_what_time_allows_of_it(
    seconds_per_pair: float, pairs: int
) -> None:
    """The paper's batch of 2,048 in groups of 256, which is what memory is made for."""
    schedule = pretrain_runs(load_profile("paper"), "cc3m", "mmcl")[0].schedule
    assert measure._affordable(schedule, seconds_per_pair, BUDGET) == pairs


def test_on_a_gpu_an_evaluation_is_timed_whole_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for what later ones find in memory, and once more: never scaled from a few images."""
    monkeypatch.setattr(measure, "build_model", MagicMock())
    monkeypatch.setattr(measure, "_evaluation_estimate", None)
    asked = []

    def evaluate(*arguments: Any) -> None:
        asked.append(arguments)
        time.sleep(0.01)

    task = cast(Task, SimpleNamespace(evaluate=evaluate))
    seconds = measure._evaluation(load_profile("paper"), task, torch.device("cuda"), budget=0.0)
    assert len(asked) == 2
    assert 0.01 <= seconds < 1


def test_parts_of_a_batch_share_the_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device takes a large batch group by group, and has waited for all of it before the first."""
    clock = iter([0.0, 8.0, 20.0, 28.0])
    monkeypatch.setattr(measure, "now", lambda device: next(clock))
    images = torch.arange(8).view(1, 8, 1, 1, 1)
    tokens = torch.arange(8).view(1, 8, 1)
    pairs = SimpleNamespace(steps_per_epoch=1, batches=lambda *_: iter([(images, tokens)]))
    task = cast(Task, SimpleNamespace(pairs=pairs))

    spec = pretrain_runs(load_profile("mini"), "cc3m", "mmcl")[0]
    drawn = measure._batches(task, spec, 2, torch.device("cpu"))
    for first in (0, 2, 4, 6, 0):
        part, texts, waited = next(drawn)
        assert part.flatten().tolist() == texts.flatten().tolist() == [first, first + 1]
        assert waited == 2.0


def test_a_short_run_is_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes beside its steps and evaluations is a cost of each run of its kind; of a run
    that would take longer than there is time for, nothing is known.
    """
    work = work_of(load_profile("smoke"))[-1]
    monkeypatch.setattr(measure, "load_task", lambda resident, spec: object())
    monkeypatch.setattr(measure, "_training", lambda *_: (0.25, 0.25, 16))
    monkeypatch.setattr(measure, "_evaluation", lambda *_: 2.0)
    known = 0.5 * work.pair_views + 2.0 * work.evaluations
    monkeypatch.setattr(measure, "whole_run", lambda *_: known + 7.0)

    enough = measure.measure(load_profile("smoke"), 10.0 * known, [work])
    assert enough.run == {work.kind: pytest.approx(7.0)}
    assert measure.measure(load_profile("smoke"), 0.1 * known, [work]).run == {work.kind: 0.0}


@pytest.mark.parametrize(("devices", "workers"), [(("0",), "3"), ((), "0")])
def test_a_place_is_measured_in_the_environment_of_training(
    devices: tuple[str, ...], workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the loader processes that a rank of four cores would have."""
    monkeypatch.delenv("REPRO_LOADER_WORKERS", raising=False)
    started = MagicMock()
    monkeypatch.setattr(calibrate.subprocess, "Popen", started)
    calibrate._start("paper", 1.0, Place(devices, 1, 4))
    environment = started.call_args.kwargs["env"]
    assert environment["REPRO_LOADER_WORKERS"] == workers
    assert (environment.items() >= GPU_ENVIRONMENT.items()) == bool(devices)
    assert environment.items() >= TRAINING_ENVIRONMENT.items()
