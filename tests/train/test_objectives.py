"""Objectives against Equations 1 and 2 in float64; learning rates against closed forms."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip_train.scheduler import cosine_lr
from torch import Tensor

from repro.ledger import pending_rows
from repro.names import DEFENCES as DEFENCE_NAMES
from repro.names import LOSSES
from repro.profile import clean_runs, load_profile
from repro.spec import RunSpec, Schedule
from repro.train.defences import DEFENCES, objective_of
from repro.train.objectives import (
    OBJECTIVES,
    Batch,
    mmcl_loss,
    ssl_loss,
    weighted,
)
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from tests.support.short_run import assert_equal_models, defended, pretraining_of, run_spec
from tests.support.short_run import run as train


def features(count: int, batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        values = torch.randn(batch, 16, generator=generator, dtype=torch.float64)
        found.append(F.normalize(values, dim=-1))
    return found


def likeness(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """A term of the sums in both equations."""
    return (one @ other * scale).exp()


def equation_1(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """-1/(2B) sum_j log softmax of row j at j, over texts and over images; sums written out."""
    total = torch.zeros((), dtype=torch.float64)
    for image, text in zip(images, texts, strict=True):
        match = likeness(image, text, scale)
        over_texts = sum(likeness(image, other, scale) for other in texts)
        over_images = sum(likeness(other, text, scale) for other in images)
        total = total + torch.log(match / over_texts)
        total = total + torch.log(match / over_images)
    return -total / (2 * len(images))


def equation_2(image: Tensor, image_2: Tensor, text: Tensor, text_2: Tensor, scale: Tensor) -> Any:
    """-1/(2B) sum_j of the clean view j against all augmented views, in both modalities."""
    total = torch.zeros((), dtype=torch.float64)
    for clean, augmented in ((image, image_2), (text, text_2)):
        for one, own in zip(clean, augmented, strict=True):
            match = likeness(one, own, scale)
            everyone = sum(likeness(one, view, scale) for view in augmented)
            total = total + torch.log(match / everyone)
    return -total / (2 * len(image))


def relative(value: Tensor, reference: Tensor) -> float:
    expected = reference.detach()
    difference = value.detach().double() - expected
    return float(difference.norm() / expected.norm())


def ssl_of_four(
    image: Tensor, image_2: Tensor, text: Tensor, text_2: Tensor, scale: Tensor
) -> Tensor:
    """`ssl_loss` of views that are given one by one."""
    images = torch.stack([image, image_2])
    texts = torch.stack([text, text_2])
    return ssl_loss(images, texts, scale)


LOSSES_BY_EQUATION: list[tuple[Callable[..., Tensor], Callable[..., Any], list[str]]] = [
    (mmcl_loss, equation_1, ["image", "text", "scale"]),
    (ssl_of_four, equation_2, ["image", "image_2", "text", "text_2", "scale"]),
]
"""A loss, its equation, and what they take."""


@pytest.mark.parametrize("batch", [2, 5, 32])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_equations(batch: int, scale: float, dtype: torch.dtype) -> None:
    # float32 rounds logits of up to 100 to 4e-6 absolute.
    bound = 1e-6 if dtype == torch.float64 else 2e-4
    names = ("image", "image_2", "text", "text_2")
    leaves = dict(zip(names, features(4, batch), strict=True))
    leaves["scale"] = torch.tensor(scale, dtype=torch.float64)

    for loss, equation, used in LOSSES_BY_EQUATION:
        ours = [leaves[name].to(dtype).requires_grad_() for name in used]
        theirs = [leaves[name].clone().requires_grad_() for name in used]
        value = loss(*ours)
        reference = equation(*theirs)
        assert relative(value, reference) < bound

        gradients = torch.autograd.grad(value, ours)
        references = torch.autograd.grad(reference, theirs)
        for gradient, expected in zip(gradients, references, strict=True):
            size = float(expected.norm())
            difference = gradient.double() - expected
            assert float(difference.norm()) < bound * max(1.0, size)


def test_the_total_is_the_weighted_sum_and_leaves_out_terms_of_weight_zero() -> None:
    image, image_2, text, text_2 = features(4, 3)
    scale = torch.tensor(2.0, dtype=torch.float64)
    images = torch.stack([image, image_2])
    texts = torch.stack([text, text_2])
    batch = Batch(images, texts, scale, start=None)

    parts = weighted(mmcl=1.0, ssl=0.5).total(batch, None)

    mmcl = mmcl_loss(image, text, scale)
    expected = mmcl + 0.5 * parts["ssl"]
    assert parts["loss"].item() == pytest.approx(expected.item())
    without = OBJECTIVES["mmcl_ssl"](0.0)
    parts = without.total(batch, None)
    assert set(parts) == {"loss", "mmcl"}


def test_halves_of_the_ssl_term_are_shown_and_change_no_bit(tmp_path: Path) -> None:
    plain = pretraining_of(run_spec(optimizer_state="fresh"))
    shown = plain.model_copy(update={"ssl_parts": True})
    assert "ssl_parts" not in plain.computed()
    assert shown.computed()["ssl_parts"] is True

    model = train(tmp_path / "plain", plain)
    same = train(tmp_path / "shown", shown)
    assert_equal_models(model, same, 0.0)

    _, *rows = pending_rows(tmp_path / "plain")
    _, *rows_shown = pending_rows(tmp_path / "shown")
    for item, other in zip(rows, rows_shown, strict=True):
        losses = item.train_loss
        with_halves = other.train_loss
        of_images = with_halves.pop("ssl_image")
        of_texts = with_halves.pop("ssl_text")
        assert with_halves == losses
        mean = (of_images + of_texts) / 2
        assert mean == pytest.approx(losses["ssl"], rel=1e-6)
        assert of_images != of_texts

    # Where one view is encoded there is no SSL term to take apart.
    single = objective_of(shown.model_copy(update={"loss": "mmcl"}))
    image, text = features(2, 3)
    scale = torch.tensor(2.0)
    batch = Batch(image[None], text[None], scale, start=None)
    parts = single.total(batch, None)
    assert set(parts) == {"loss", "mmcl"}


def test_every_name_has_an_implementation_that_takes_its_settings() -> None:
    assert OBJECTIVES.keys() == LOSSES.keys()
    retired = {name for name, of in DEFENCE_NAMES.items() if of.retired}
    assert DEFENCES.keys() == DEFENCE_NAMES.keys() - retired
    for name in DEFENCES:
        of_defence = DEFENCE_NAMES[name].views
        for loss in LOSSES:
            base = run_spec().model_copy(update={"loss": loss})
            spec = defended(base, name)
            assert spec.num_views == (of_defence or LOSSES[loss].views)
            assert objective_of(spec).weights
            assert math.isfinite(loss_of(spec)), (name, loss)


def loss_of(spec: RunSpec) -> float:
    """The loss of a first batch of four pairs, with as many views as the run encodes."""
    objective = objective_of(spec)
    images, texts = (torch.stack(features(spec.num_views, 4, seed)) for seed in (0, 1))
    own = objective.modules(16).double() if objective.modules is not None else None
    start = (images, texts) if objective.needs_start else None
    batch = Batch(images, texts, torch.tensor(2.0, dtype=images.dtype), start)
    return objective.total(batch, own)["loss"].item()


def schedule(**changes: float | int | None) -> Schedule:
    values: dict[str, float | int | None] = {
        "learning_rate": 1e-3,
        "epochs": 20,
        "warmup_steps": 50,
        "global_batch_size": 64,
        "norm_batch_size": 64,
    }
    return Schedule.model_validate(values | changes)


def run(**changes: object) -> RunSpec:
    first, *_ = clean_runs(load_profile("smoke"))
    return first.model_copy(update=changes)


def test_schedule_equals_open_clips() -> None:
    spec = schedule(epochs=3, warmup_steps=7)
    steps = 11
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    (group,) = optimizer.param_groups
    reference = cosine_lr(optimizer, spec.learning_rate, spec.warmup_steps, 3 * steps)
    for step in range(3 * steps):
        reference(step)
        rate = learning_rate(spec, step, steps, "none")
        assert rate == pytest.approx(group["lr"], rel=1e-12)


def test_authors_offset_skips_the_warm_up_and_runs_past_the_end_of_the_cosine() -> None:
    """100K pairs in batches of 64: 1562 steps an epoch; CC6M in batches of 2048: 2929."""

    def share(spec: Schedule, step: int, steps: int) -> float:
        return learning_rate(spec, step, steps, "one_epoch") / 1e-3

    cleaning = schedule()
    first = share(cleaning, 0, 1562)
    last_epoch = share(cleaning, 19 * 1562, 1562)
    last = share(cleaning, 20 * 1562 - 1, 1562)
    assert first == pytest.approx(0.994, abs=5e-4)
    assert last == pytest.approx(0.006, abs=5e-4)
    assert last > last_epoch

    pretraining = schedule(warmup_steps=10_000, epochs=64)
    assert share(pretraining, 0, 2929) == pytest.approx(0.293)


def test_steps_of_a_truncated_schedule_keep_the_full_cosine() -> None:
    spec = schedule(epochs=64, warmup_steps=0)
    to_epoch_21 = run(schedule=spec, model_age=21)
    to_the_end = run(schedule=spec, model_age="best_validation_loss")
    assert num_steps(to_epoch_21, 100) == 2100
    assert num_steps(to_the_end, 100) == 6400

    share = learning_rate(spec, 2100, 100, "none") / 1e-3
    cosine = math.cos(math.pi * 21 / 64)
    assert share == pytest.approx((1 + cosine) / 2)


def test_thirds_of_an_epoch_collapse_onto_the_steps() -> None:
    rhythm = {"evaluations_per_epoch": 3.0, "evaluate_every_steps": None}
    spec = run(schedule=schedule(epochs=2), **rhythm)
    assert evaluation_steps(spec, 10) == [0, 3, 7, 10, 13, 17, 20]
    assert evaluation_steps(spec, 1) == [0, 1, 2]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1562, [1500, 1562]),
        (3125, [1500, 3000, 3125]),
    ],
)
def test_authors_rhythm(steps: int, expected: list[int]) -> None:
    rhythm = {"evaluations_per_epoch": None, "evaluate_every_steps": 1500}
    spec = run(schedule=schedule(epochs=1), **rhythm)
    assert evaluation_steps(spec, steps) == [0, *expected]
