"""The training loop against a plain reference, and its resumption after a stop at any step."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file

from repro.ledger import Row, pending_rows
from repro.spec import RunSpec
from repro.train import loop
from repro.train.build import build_model, build_optimizer
from repro.train.fresh_head import FRESH_HEAD
from repro.train.loop import Task, TrainingRun
from repro.train.model import normalise
from repro.train.objectives import OBJECTIVES
from repro.train.process import checkpoint
from repro.train.process.stopping import Interrupted
from tests.support.short_run import (
    BATCH,
    CPU,
    EPOCHS,
    STEPS_PER_EPOCH,
    Pairs,
    assert_equal_models,
    defended,
    no_outcomes,
    pretraining_of,
    run,
    run_spec,
    run_to_outcome,
    signal_at,
    signal_in,
)


def authors_optimizer(model: CLIP) -> torch.optim.AdamW:
    """AdamW with the authors' weight decay and moments of 40 earlier steps."""
    decayed: list[torch.nn.Parameter] = []
    undecayed: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("bn", "ln", "bias", "logit_scale")):
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, foreach=False, fused=False)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "exp_avg": torch.full_like(parameter, 1e-3),
            "exp_avg_sq": torch.full_like(parameter, 1e-5),
            "step": torch.tensor(40.0),
        }
    return optimizer


def authors_rate(base: float, step: int) -> float:
    """Three steps of warm-up, then a cosine to the end of the run."""
    warmup = 3
    total = STEPS_PER_EPOCH * EPOCHS
    if step < warmup:
        return base * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    return base / 2 * (1 + math.cos(math.pi * progress))


def authors_loss(model: CLIP, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Eq. 1 and Eq. 2, each the mean of two cross-entropies."""
    pixels = normalise(images.flatten(0, 1))
    padded = F.pad(tokens.flatten(0, 1), (0, 69))
    image = F.normalize(model.visual(pixels), dim=-1)
    text = model.encode_text(padded, normalize=True)
    plain_image, augmented_image = image.chunk(2)
    plain_text, augmented_text = text.chunk(2)
    scale = model.logit_scale.exp()
    match = torch.arange(BATCH)

    def entropy(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scale * one @ other.T, match)

    image_to_text = entropy(plain_image, plain_text)
    text_to_image = entropy(plain_text, plain_image)
    image_to_view = entropy(plain_image, augmented_image)
    text_to_view = entropy(plain_text, augmented_text)
    mmcl = (image_to_text + text_to_image) / 2
    ssl = (image_to_view + text_to_view) / 2
    return mmcl + ssl


def reference(spec: RunSpec) -> CLIP:
    """The authors' loop in the plainest form: one optimizer, one rank, everything in a row."""
    model = build_model(spec.model, 0, "fp16_rounded")
    optimizer = authors_optimizer(model)
    pairs = Pairs()
    for epoch in range(1, EPOCHS + 1):  # the authors count from 1
        model.train()
        for index in range(STEPS_PER_EPOCH):
            step = STEPS_PER_EPOCH * epoch + index
            for group in optimizer.param_groups:
                group["lr"] = authors_rate(spec.schedule.learning_rate, step)

            images, tokens = pairs.batch(STEPS_PER_EPOCH * (epoch - 1) + index)
            loss = authors_loss(model, images, tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.logit_scale.data.clamp_(0, 4.6052)
            if index + 1 == 3:  # evaluation in mid-epoch, and no way back to train mode
                model.eval()
    return model


def test_training_under_protocol_authors_is_the_reference_loop(tmp_path: Path) -> None:
    spec = run_spec()
    assert_equal_models(run(tmp_path / "run", spec), reference(spec), 1e-6)


def test_leaving_eval_mode_on_is_what_the_switch_says(tmp_path: Path) -> None:
    """BatchNorm statistics move at every step under `train`, and stand still under `eval`."""
    for mode, moves in (("eval", 6), ("train", 8)):
        spec = run_spec(mode_after_evaluation=mode)
        model = run(tmp_path / mode, spec)
        assert model.visual.bn1.num_batches_tracked.item() == moves


def rows_of(folder: Path) -> list[Row]:
    return pending_rows(folder)


def test_rows_hold_start_every_evaluation_and_the_mean_loss_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    losses: list[float] = []

    def emit(event: str, content: dict[str, Any]) -> None:
        if "loss" in content["values"]:
            losses.append(content["values"]["loss"])

    run(tmp_path / "run", run_spec(), emit=emit)
    rows = rows_of(tmp_path / "run")
    assert [row.step for row in rows] == [0, 3, 4, 7, 8]
    first, second, *_ = rows
    assert first.train_loss is None
    assert second.train_loss is not None
    mean = sum(losses[:3]) / 3
    assert second.train_loss["loss"] == pytest.approx(mean)
    assert first.num_correct == 0
    assert first.attack_success("non_target") == (4, 4)
    assert first.attack_success("all") == (5, 5)


def task_of(spec: RunSpec, fingerprint: str, folder: Path) -> Task:
    """A run on random pairs, of five images whose first is of the target class."""
    is_target = np.arange(5) == 0
    return Task(spec, fingerprint, folder, Pairs(), no_outcomes, is_target, validation=None)  # type: ignore[arg-type]


def test_the_gradient_norm_is_that_of_the_last_step(tmp_path: Path) -> None:
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    task = task_of(spec, "f" * 16, tmp_path)
    training = TrainingRun(task, model, CPU, lambda event, content: None)
    first, second, *_ = model.parameters()
    for parameter in (first, second):
        parameter.grad = torch.full_like(parameter, 3.0)
    numbers = first.numel() + second.numel()
    expected = 3 * math.sqrt(numbers)
    assert training.gradient_norm().item() == pytest.approx(expected)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIP, list[Row]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder, run_spec()), rows_of(folder)


@pytest.mark.parametrize("step", range(1, STEPS_PER_EPOCH * EPOCHS + 1))
def test_a_run_stopped_at_any_step_ends_bitwise_like_an_undisturbed_one(
    undisturbed: Any, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "training_step", signal_in(step))
    with pytest.raises(Interrupted):
        run(tmp_path, run_spec())
    model, rows = undisturbed
    assert_equal_models(run(tmp_path, run_spec()), model, 0)
    resumed = rows_of(tmp_path)
    for row, other in zip(resumed, rows, strict=True):
        timed_alike = other.model_copy(update={"seconds": row.seconds})
        assert row == timed_alike


def test_a_torn_checkpoint_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "names")
    with checkpoint.Saver(tmp_path) as saver:
        saver.save(1, model, optimizer, {"step": 1})
        saver.save(2, model, optimizer, {"step": 2})
    torn = tmp_path / "checkpoint-2"
    content = torn.read_bytes()
    torn.write_bytes(content[:-1])
    state = checkpoint.load_checkpoint(tmp_path, model, optimizer)
    assert state == {"step": 1}
    assert "checkpoint-2 is damaged" in capsys.readouterr().out


def test_a_loss_of_nan_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is read while the next step is made, which is then the last one."""
    losses = {"loss": torch.tensor(math.nan)}
    monkeypatch.setattr(loop, "training_step", lambda *arguments: losses)
    _, outcome = run_to_outcome(tmp_path, run_spec())
    assert outcome["status"] == "diverged"
    assert outcome["reason"] == "loss is nan after step 1 of 8"
    assert outcome["num_samples"] == 2 * BATCH

    start, last = rows_of(tmp_path)
    assert start.step == 0
    assert last.step == 2
    assert last.train_loss is not None
    assert math.isnan(last.train_loss["loss"])


def test_the_best_model_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of losses 0.5 and 0.7 the first is kept, of 0.7 and 0.5 the second."""
    spec = pretraining_of(run_spec(optimizer_state="fresh"), model_age="best_validation_loss")
    cases = [
        ([0.5, 0.7], 1),
        ([0.7, 0.5], 2),
        ([0.5, math.nan], 1),
    ]
    for losses, best in cases:
        folder = tmp_path / str(losses)
        validation_loss = Mock(side_effect=losses)
        save_model = Mock()
        monkeypatch.setattr(loop, "validation_loss", validation_loss)
        monkeypatch.setattr(TrainingRun, "save_model", save_model)
        _, outcome = run_to_outcome(folder, spec, validation=Pairs())
        assert outcome["model_step"] == best * STEPS_PER_EPOCH
        assert save_model.call_count == best  # at every improvement, and not at the end
        steps = [row.step for row in rows_of(folder)]
        assert best * STEPS_PER_EPOCH in steps  # the model that is handed on has been evaluated


def test_a_pre_training_hands_on_no_module_of_its_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is loaded by runs that know nothing of them."""
    monkeypatch.setitem(OBJECTIVES, "mmcl_ssl", lambda ssl_weight: FRESH_HEAD)
    spec = pretraining_of(run_spec(optimizer_state="fresh"))
    trained = run(tmp_path / "run", spec)
    assert "objective.image.0.weight" in trained.state_dict()

    model = build_model(spec.model, 0, "fp32")
    model.load_state_dict(load_file(tmp_path / "run/model.safetensors"))
    assert torch.equal(model.visual.conv1.weight, trained.visual.conv1.weight)
    moments = load_file(tmp_path / "run/optimizer.safetensors")
    names = {name.partition("/")[0] for name in moments}
    assert names == {name for name, _ in model.named_parameters()}


def test_modules_of_an_objective_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back from the checkpoint; they are not made anew."""
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    spec = defended(run_spec(optimizer_state="fresh"), "fresh_head")
    whole = run(tmp_path / "whole", spec)
    folder = tmp_path / "parts"
    with pytest.raises(Interrupted):
        run(folder, spec, emit=signal_at(5))
    resumed = run(folder, spec)
    assert "objective.image.0.weight" in resumed.state_dict()
    assert_equal_models(resumed, whole, 0)
