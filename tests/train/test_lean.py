"""What `paper_lean` leaves out: padding, evaluation images within an epoch, runs without hope."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repro.evaluate.images import EvaluationSet
from repro.ledger import pending_rows
from repro.runs.published import export_run, read_run
from repro.spec import RunSpec, StopEarly, Trigger
from repro.train.build import build_model, build_optimizer
from repro.train.gradient_cache import GradientCache
from repro.train.model import PairEncoder
from repro.train.predictions import Predictions
from repro.train.process.stopping import Interrupted
from repro.train.step import encode_pairs, training_step
from repro.train.views.tokens import END
from tests.support.evaluation import blocks, switches, write_images
from tests.support.ledger import record_of
from tests.support.short_run import (
    CPU,
    EPOCHS,
    STEPS_PER_EPOCH,
    run_spec,
    run_to_outcome,
    scheduled,
)


def batch(lengths: list[int], views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and captions of these lengths, end token included, one after another."""
    generator = torch.Generator().manual_seed(1)
    count = len(lengths)
    shape = (views, count // views)
    images = torch.randint(0, 256, (*shape, 3, 32, 32), generator=generator)
    tokens = torch.zeros(count, max(lengths), dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        words = length - 1
        row[:words] = torch.randint(0, 999, (words,), generator=generator)
        row[words] = END
    return images.to(torch.uint8), tokens.unflatten(0, shape)


def step_in_parts(
    parts: int, images: torch.Tensor, tokens: torch.Tensor, cached: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Text features of a batch that is encoded in so many parts, and gradients of a step on it."""
    base = run_spec(optimizer_state="fresh")
    as_wide = base.model.model_copy(update={"embed_dim": 1024})
    spec = base.model_copy(update={"text_parts": parts, "model": as_wide})
    model = build_model(spec.model, 0, "fp32").train()
    plain = PairEncoder(model, 2)
    _, features, _ = encode_pairs(spec, plain, images, tokens)

    encoder: nn.Module = plain
    if cached:
        encoder = GradientCache(model, 2, compiled=False)
    optimizer = build_optimizer(model, spec.optimizer, "ndim")
    training_step(encoder, model, optimizer, images, tokens, spec, 1e-3)
    every = [weight.grad for weight in model.parameters()]
    gradients = [gradient for gradient in every if gradient is not None]
    return features, gradients


@pytest.mark.parametrize("cached", [False, True])
def test_text_in_parts_is_equal_to_rounding(cached: bool) -> None:
    """Features as wide as the paper's to 2e-7, and the gradients of a step to what follows."""
    lengths = [9, 4, 30, 7, 12, 3, 3, 8, 5, 77, 6, 10]
    images, tokens = batch(lengths, views=2)
    whole, of_whole = step_in_parts(1, images, tokens, cached)
    for parts in (4, 5):
        features, gradients = step_in_parts(parts, images, tokens, cached)
        torch.testing.assert_close(features, whole, rtol=0, atol=2e-7)
        torch.testing.assert_close(gradients, of_whole, rtol=1e-3, atol=1e-5)


def attacked(*shares: float) -> Any:
    """An evaluation of five images whose n-th call has the n-th share attacked, the last for ever."""
    left = list(shares)
    images = np.arange(5)

    def evaluate(model: object, step: int, draw: int, stop: object) -> Predictions:
        share = left.pop(0) if len(left) > 1 else left[0]
        hit = images < round(5 * share)
        return Predictions(
            correct=~hit,
            attacked=hit,
            classes=images,
            classes_triggered=np.ones(5, np.int64),
        )

    return evaluate


def given_up_after(epochs: int) -> RunSpec:
    """A run that is given up where no evaluation of so many epochs had an ASR below 90%."""
    rule = StopEarly(epochs=epochs, asr=0.9)
    spec = run_spec(optimizer_state="fresh")
    return spec.model_copy(update={"stop_early": rule})


WHOLE = EPOCHS * STEPS_PER_EPOCH


@pytest.mark.parametrize(
    ("shares", "steps", "reason"),
    [
        ((1.0,), STEPS_PER_EPOCH, "given up: no ASR below 0.9 in 1 epochs"),
        ((1.0, 0.8, 1.0), WHOLE, ""),
    ],
    ids=["no hope", "some hope"],
)
def test_a_hopeless_run_is_given_up(
    tmp_path: Path, shares: tuple[float, ...], steps: int, reason: str
) -> None:
    """After the first of two epochs, for all its evaluations had an ASR of 90% or more."""
    spec = given_up_after(1)
    _, outcome = run_to_outcome(tmp_path, spec, attacked(*shares))
    assert outcome["status"] == "completed"
    assert outcome["reason"] == reason
    assert outcome["num_samples"] // spec.schedule.global_batch_size == steps
    *_, last = pending_rows(tmp_path)
    assert last.step == steps


def test_a_run_remembers_the_hope_of_an_evaluation_before_it_was_stopped(tmp_path: Path) -> None:
    spec = scheduled(given_up_after(2), epochs=3)
    evaluate = attacked(1.0, 0.2, 1.0)

    def interrupted(model: object, step: int, draw: int, stop: object) -> Predictions:
        if step == STEPS_PER_EPOCH:
            raise Interrupted(15)
        return evaluate(model, step, draw, stop)  # type: ignore[no-any-return]

    with pytest.raises(Interrupted):
        run_to_outcome(tmp_path, spec, interrupted)
    _, outcome = run_to_outcome(tmp_path, spec, evaluate)
    assert outcome["reason"] == ""
    assert outcome["num_samples"] == 3 * STEPS_PER_EPOCH * 6


def test_a_partial_evaluation_has_the_triggers_of_the_whole_one(tmp_path: Path) -> None:
    """Of each class the first images in the store's order, which goes round three classes."""
    folder = write_images(tmp_path / "images", blocks(12, 32, 32), classes=3)

    def images(per_class: int | None) -> EvaluationSet:
        return EvaluationSet(
            folder,
            32,
            target=1,
            trigger=Trigger(name="badnet", patch_size=8),
            switches=switches(),
            seed=0,
            cache_dir=tmp_path,
            per_class=per_class,
        )

    whole = images(None)
    part = images(2)
    assert len(whole) == 12
    assert part.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    ((_, first),) = part.batches([range(6)], 0, CPU)
    ((_, every),) = whole.batches([range(12)], 0, CPU)
    assert torch.equal(first, every[:6])


def test_rows_count_the_images_that_were_looked_at(tmp_path: Path) -> None:
    """Two of the five images within an epoch, one of them of the target class."""

    def evaluate(model: object, step: int, draw: int, stop: object) -> Predictions:
        whole: Predictions = attacked(0.6)(model, step, draw, stop)
        if step % STEPS_PER_EPOCH == 0:
            return whole
        seen = np.array([0, 3])
        some = Predictions(*(part[seen] for part in whole))
        return some.among(seen, 5)

    spec = run_spec(optimizer_state="fresh")
    work = tmp_path / "work"
    run_to_outcome(work, spec, evaluate)
    folder = export_run(work, record_of(spec), tmp_path / "results")
    _, rows = read_run(folder)

    steps = [row.step for row in rows]
    assert steps == [0, 3, 4, 7, 8]
    for row in rows:
        is_whole = row.step in (0, 4, 8)
        assert row.num_images == (5 if is_whole else 2)
        assert row.num_correct == (2 if is_whole else 1)
        assert row.num_target == 1
        assert row.num_target_attacked == 1
