"""Checkpoints: when they are due, how they are written, and that ranks go on from the same one."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repro.train.model import build_model, build_optimizer
from repro.train.process import checkpoint, distributed
from repro.train.process.checkpoint import Saver
from tests.support.ranks import on_ranks
from tests.support.short_run import pretraining_of, run_spec, run_to_outcome


@pytest.mark.parametrize(
    ("cost", "seconds"), [(0.0, 30.0), (0.02, 30.0), (4.0, 400.0), (60.0, 600.0)]
)
def test_checkpoints_take_a_hundredth_of_the_time_and_ten_minutes_are_never_lost(
    cost: float, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Saver(tmp_path) as saver:
        saver.cost, now = cost, saver.begun
        for passed, due in ((seconds - 0.5, False), (seconds + 0.5, True)):
            monkeypatch.setattr(time, "monotonic", lambda passed=passed: now + passed)
            assert saver.due == due
        monkeypatch.undo()


def test_the_cost_of_a_checkpoint_lasts_until_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on = threading.Event()

    def slow(*_: object) -> None:
        # Nothing is written before training has gone on: a `save` that waits would wait for ever.
        assert trained_on.wait(timeout=60)
        time.sleep(0.2)

    monkeypatch.setattr(checkpoint, "save_tensors", slow)
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    with Saver(tmp_path) as saver:
        saver.save(1, model, build_optimizer(model, spec.optimizer, "ndim"), {})
        trained_on.set()
        saver.wait()
        assert saver.cost >= 0.2


def test_a_pretraining_says_the_hashes_of_what_it_hands_on(tmp_path: Path) -> None:
    spec = pretraining_of(run_spec(optimizer_state="fresh"))
    _, outcome = run_to_outcome(tmp_path / "run", spec)
    names = ("model.safetensors", "optimizer.safetensors")
    hashes = {
        name: hashlib.sha256((tmp_path / "run" / name).read_bytes()).hexdigest() for name in names
    }
    assert outcome["files"] == hashes
    assert "logit_scale" in load_file(tmp_path / "run" / "model.safetensors")

    _, cleaned = run_to_outcome(tmp_path / "clean", run_spec())
    assert cleaned["files"] == {}


RANK = """
import sys
from pathlib import Path
from repro.train.process import distributed
from tests.train.test_checkpoint import restored
distributed.start()
said = restored(Path(sys.argv[1]) / ("old", "new")[distributed.rank()])
(Path(sys.argv[1]) / f"said-{distributed.rank()}").write_text(said)
distributed.stop()
"""


def restored(folder: Path) -> str:
    """Step and temperature after the checkpoint that is used, or nothing."""
    spec = run_spec()
    model = build_model(spec.model, 1, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    state = checkpoint.load_checkpoint(folder, model, optimizer)
    return "" if state is None else f"{state['step']} {model.logit_scale.item()}"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`new` shows steps 1 and 2, `old` step 1 only; `none` is empty."""
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    for name, steps in {"new": [1, 2], "old": [1], "none": []}.items():
        (tmp_path / name).mkdir()
        for step in steps:
            with torch.no_grad():
                model.logit_scale.fill_(step)
            with Saver(tmp_path / name) as saver:
                saver.save(step, model, optimizer, {"step": step})
    return tmp_path


def test_ranks_go_on_from_the_checkpoint_that_rank_0_reads(folders: Path) -> None:
    on_ranks(2, RANK, str(folders))
    assert [(folders / f"said-{rank}").read_text() for rank in (0, 1)] == ["1 1.0"] * 2


@pytest.mark.parametrize(
    ("first", "here", "outcome"),
    [
        ("none", "new", ""),
        ("new", "new", "2 2.0"),
        ("new", "old", "rank 0 goes on from it, but rank 1 cannot: .*No such file"),
    ],
)
def test_a_rank_that_cannot_follow_rank_0_refuses(
    first: str, here: str, outcome: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    monkeypatch.setattr(distributed, "from_first", lambda value, _: sent.append(value) or value)
    restored(folders / first)  # as rank 0
    monkeypatch.setattr(distributed, "from_first", lambda value, device: sent[0])
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(checkpoint, "FOLLOW_SECONDS", 0.0)
    if "rank" in outcome:
        with pytest.raises(RuntimeError, match=outcome):
            restored(folders / here)
    else:
        assert restored(folders / here) == outcome
