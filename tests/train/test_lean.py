"""What `paper_lean` leaves out: padding, evaluation images within an epoch, runs without hope."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repro.evaluate.images import EvaluationSet
from repro.ledger import Row, pending_rows
from repro.runs.published import export_run, read_run
from repro.spec import StopEarly, Trigger
from repro.train.build import build_model, build_optimizer
from repro.train.gradient_cache import GradientCache
from repro.train.model import PairEncoder
from repro.train.predictions import Predictions
from repro.train.process.stopping import Interrupted
from repro.train.step import encode_pairs, training_step
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
    pairs = len(lengths) // views
    images = torch.randint(0, 256, (views, pairs, 3, 32, 32), generator=generator)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(0, 999, (length - 1,), generator=generator)
        row[length - 1] = 49407
    return images.to(torch.uint8), tokens.unflatten(0, (views, pairs))


@pytest.mark.parametrize("cached", [False, True])
def test_text_in_parts_is_equal_to_rounding(cached: bool) -> None:
    """Features as wide as the paper's to 2e-7, and the gradients of a step to what follows."""
    images, tokens = batch([9, 4, 30, 7, 12, 3, 3, 8, 5, 77, 6, 10], views=2)
    features, gradients = [], []
    for parts in (1, 4, 5):
        spec = run_spec(optimizer_state="fresh")
        as_wide = spec.model.model_copy(update={"embed_dim": 1024})
        spec = spec.model_copy(update={"text_parts": parts, "model": as_wide})
        model = build_model(spec.model, 0, "fp32").train()
        optimizer = build_optimizer(model, spec.optimizer, "ndim")
        encoder: nn.Module = GradientCache(model, 2, False) if cached else PairEncoder(model, 2)
        features.append(encode_pairs(spec, PairEncoder(model, 2), images, tokens)[1])
        training_step(encoder, model, optimizer, images, tokens, spec, 1e-3)
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    for part in (1, 2):
        torch.testing.assert_close(features[part], features[0], rtol=0, atol=2e-7)
        for one, other in zip(gradients[part], gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def attacked(*shares: float) -> Any:
    """An evaluation of five images whose n-th call has the n-th share attacked, the last for ever."""
    calls: list[int] = []

    def evaluate(model: object, step: int, draw: int, stop: object) -> Predictions:
        share = shares[min(len(calls), len(shares) - 1)]
        calls.append(step)
        hit = np.arange(5) < round(5 * share)
        return Predictions(~hit, hit, np.arange(5), np.ones(5, np.int64))

    return evaluate


@pytest.mark.parametrize(
    ("shares", "steps"), [((1.0,), STEPS_PER_EPOCH), ((1.0, 0.8, 1.0), EPOCHS * STEPS_PER_EPOCH)]
)
def test_a_hopeless_run_is_given_up(tmp_path: Path, shares: tuple[float, ...], steps: int) -> None:
    """After the first of two epochs, for all its evaluations had an ASR of 90% or more."""
    rule = StopEarly(epochs=1, asr=0.9)
    spec = run_spec(optimizer_state="fresh").model_copy(update={"stop_early": rule})
    _, outcome = run_to_outcome(tmp_path, spec, attacked(*shares))
    early = steps < EPOCHS * STEPS_PER_EPOCH
    assert outcome["status"] == "completed"
    assert outcome["reason"] == ("given up: no ASR below 0.9 in 1 epochs" if early else "")
    rows = [Row.model_validate(item["row"]) for item in pending_rows(tmp_path)]
    assert rows[-1].step == steps == outcome["num_samples"] // spec.schedule.global_batch_size


def test_a_run_remembers_the_hope_of_an_evaluation_before_it_was_stopped(tmp_path: Path) -> None:
    rule = StopEarly(epochs=2, asr=0.9)
    spec = scheduled(run_spec(optimizer_state="fresh"), epochs=3)
    spec = spec.model_copy(update={"stop_early": rule})
    evaluate = attacked(1.0, 0.2, 1.0)

    def interrupted(model: object, step: int, draw: int, stop: object) -> Predictions:
        if step == STEPS_PER_EPOCH:
            raise Interrupted(15)
        return evaluate(model, step, draw, stop)  # type: ignore[no-any-return]

    with pytest.raises(Interrupted):
        run_to_outcome(tmp_path, spec, interrupted)
    _, outcome = run_to_outcome(tmp_path, spec, evaluate)
    assert (outcome["reason"], outcome["num_samples"]) == ("", 3 * STEPS_PER_EPOCH * 6)


def test_a_partial_evaluation_has_the_triggers_of_the_whole_one(tmp_path: Path) -> None:
    """Of each class the first images in the store's order, which goes round three classes."""
    folder = write_images(tmp_path / "images", blocks(12, 32, 32), classes=3)
    told = (folder, 32, 1, Trigger(name="badnet", patch_size=8), switches(), 0, tmp_path)
    whole, part = (EvaluationSet(*told, per_class) for per_class in (None, 2))
    assert part.numbers.tolist() == [0, 1, 2, 3, 4, 5] and len(whole) == 12
    ((_, first),) = part.batches([range(6)], 0, CPU)
    ((_, every),) = whole.batches([range(12)], 0, CPU)
    assert torch.equal(first, every[:6])


def test_rows_count_the_images_that_were_looked_at(tmp_path: Path) -> None:
    """Two of the five images within an epoch, one of them of the target class."""

    def evaluate(model: object, step: int, draw: int, stop: object) -> Predictions:
        whole = attacked(0.6)(model, step, draw, stop)
        if step % STEPS_PER_EPOCH == 0:
            return whole
        seen = np.array([0, 3])
        return Predictions(*(part[seen] for part in whole)).among(seen, 5)

    spec = run_spec(optimizer_state="fresh")
    work = tmp_path / "work"
    run_to_outcome(work, spec, evaluate)
    folder = export_run(work, record_of(spec), tmp_path / "results")
    _, rows = read_run(folder)
    counts = [(row.step, row.num_images, row.num_target, row.num_target_attacked) for row in rows]
    assert counts == [(0, 5, 1, 1), (3, 2, 1, 1), (4, 5, 1, 1), (7, 2, 1, 1), (8, 5, 1, 1)]
    assert [row.num_correct for row in rows] == [2, 1, 2, 1, 2]
