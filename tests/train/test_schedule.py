"""Learning rates and evaluation points against closed forms, open_clip and the authors'
description.
"""

import math

import pytest
import torch
from open_clip_train.scheduler import cosine_lr

from repro.profile import clean_runs, load_profile
from repro.spec import RunSpec, Schedule
from repro.train.schedule import evaluation_steps, learning_rate, num_steps


def schedule(**changes: float | int | None) -> Schedule:
    values = {
        "learning_rate": 1e-3,
        "epochs": 20,
        "warmup_steps": 50,
        "global_batch_size": 64,
        "norm_batch_size": 64,
    }
    return Schedule.model_validate({**values, **changes})


def run(**changes: object) -> RunSpec:
    return clean_runs(load_profile("smoke"))[0].model_copy(update=changes)


def test_schedule_equals_open_clips() -> None:
    spec, steps = schedule(epochs=3, warmup_steps=7), 11
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    reference = cosine_lr(optimizer, spec.learning_rate, spec.warmup_steps, 3 * steps)
    for step in range(3 * steps):
        reference(step)
        assert learning_rate(spec, step, steps, "none") == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-12
        )


def test_authors_offset_skips_the_warm_up_and_runs_past_the_end_of_the_cosine() -> None:
    """100K pairs in batches of 64: 1562 steps an epoch.

    First step 0.994 of the base rate, last 0.006 and rising.
    """
    spec = schedule()
    first, last = (
        learning_rate(spec, step, 1562, "one_epoch") / 1e-3 for step in (0, 20 * 1562 - 1)
    )
    assert first == pytest.approx(0.994, abs=5e-4)
    assert last == pytest.approx(0.006, abs=5e-4)
    assert last > learning_rate(spec, 19 * 1562, 1562, "one_epoch") / 1e-3


def test_authors_offset_in_pretraining_starts_at_the_fraction_of_the_warm_up_that_one_epoch_is() -> (
    None
):
    """CC6M in batches of 2048: 2929 steps an epoch of 10,000 warm-up steps."""
    assert learning_rate(
        schedule(warmup_steps=10_000, epochs=64), 0, 2929, "one_epoch"
    ) / 1e-3 == pytest.approx(0.293)


def test_steps_of_a_truncated_schedule_keep_the_full_cosine() -> None:
    spec = schedule(epochs=64, warmup_steps=0)
    assert num_steps(run(schedule=spec, model_age=21), 100) == 2100
    assert num_steps(run(schedule=spec, model_age="best_validation_loss"), 100) == 6400
    assert learning_rate(spec, 2100, 100, "none") / 1e-3 == pytest.approx(
        (1 + math.cos(math.pi * 21 / 64)) / 2
    )


def test_thirds_of_an_epoch() -> None:
    spec = run(evaluations_per_epoch=3.0, evaluate_every_steps=None, schedule=schedule(epochs=2))
    assert evaluation_steps(spec, 10) == [0, 3, 7, 10, 13, 17, 20]


@pytest.mark.parametrize(("steps", "expected"), [(1562, [1500, 1562]), (3125, [1500, 3000, 3125])])
def test_authors_rhythm(steps: int, expected: list[int]) -> None:
    spec = run(evaluations_per_epoch=None, evaluate_every_steps=1500, schedule=schedule(epochs=1))
    assert evaluation_steps(spec, steps) == [0, *expected]


def test_more_evaluations_than_steps_collapse_onto_the_steps() -> None:
    spec = run(evaluations_per_epoch=3.0, evaluate_every_steps=None, schedule=schedule(epochs=2))
    assert evaluation_steps(spec, 1) == [0, 1, 2]
