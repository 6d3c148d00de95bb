"""Objectives against Equations 1 and 2 in float64; learning rates against closed forms."""

import math
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
    with_ssl_parts,
)
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from tests.support.short_run import assert_equal_models, defended, pretraining_of, run_spec
from tests.support.short_run import run as train


def features(count: int, batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        F.normalize(torch.randn(batch, 16, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(count)
    ]


def equation_1(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """-1/(2B) sum_j log softmax of row j at j, over texts and over images; sums written out."""
    total = torch.zeros((), dtype=torch.float64)
    for j in range(len(images)):
        match = (images[j] @ texts[j] * scale).exp()
        over_texts = sum((images[j] @ text * scale).exp() for text in texts)
        over_images = sum((image @ texts[j] * scale).exp() for image in images)
        total = total + torch.log(match / over_texts) + torch.log(match / over_images)
    return -total / (2 * len(images))


def equation_2(image: Tensor, image_2: Tensor, text: Tensor, text_2: Tensor, scale: Tensor) -> Any:
    """-1/(2B) sum_j of the clean view j against all augmented views, in both modalities."""
    total = torch.zeros((), dtype=torch.float64)
    for one, other in ((image, image_2), (text, text_2)):
        for j in range(len(one)):
            everyone = sum((one[j] @ view * scale).exp() for view in other)
            total = total + torch.log((one[j] @ other[j] * scale).exp() / everyone)
    return -total / (2 * len(image))


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value.detach().double() - reference.detach()).norm() / reference.detach().norm())


@pytest.mark.parametrize("batch", [2, 5, 32])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_equations(batch: int, scale: float, dtype: torch.dtype) -> None:
    # float32 rounds logits of up to 100 to 4e-6 absolute.
    bound = 1e-6 if dtype == torch.float64 else 2e-4
    leaves = [*features(4, batch), torch.tensor(scale, dtype=torch.float64)]

    def within(image: Tensor, image_2: Tensor, text: Tensor, text_2: Tensor, scale: Tensor) -> Any:
        return ssl_loss(torch.stack([image, image_2]), torch.stack([text, text_2]), scale)

    for loss, equation, used in (
        (mmcl_loss, equation_1, (0, 2, 4)),
        (within, equation_2, (0, 1, 2, 3, 4)),
    ):
        ours = [leaves[i].to(dtype).requires_grad_() for i in used]
        theirs = [leaves[i].clone().requires_grad_() for i in used]
        value, reference = loss(*ours), equation(*theirs)
        assert relative(value, reference) < bound
        gradients = (torch.autograd.grad(value, ours), torch.autograd.grad(reference, theirs))
        for gradient, expected in zip(*gradients, strict=True):
            most = bound * max(1.0, float(expected.norm()))
            assert float((gradient.double() - expected).norm()) < most


def test_the_total_is_the_weighted_sum_and_leaves_out_terms_of_weight_zero() -> None:
    image, image_2, text, text_2 = features(4, 3)
    scale = torch.tensor(2.0, dtype=torch.float64)
    batch = Batch(torch.stack([image, image_2]), torch.stack([text, text_2]), scale, None, None)
    parts = weighted(mmcl=1.0, ssl=0.5).total(batch, None)
    assert parts["loss"].item() == pytest.approx(
        mmcl_loss(image, text, scale).item() + 0.5 * parts["ssl"].item()
    )
    assert set(OBJECTIVES["mmcl_ssl"](0.0).total(batch, None)) == {"loss", "mmcl"}


def test_halves_of_the_ssl_term_are_shown_and_change_no_bit(tmp_path: Path) -> None:
    plain = pretraining_of(run_spec(optimizer_state="fresh"))
    shown = plain.model_copy(update={"ssl_parts": True})
    assert "ssl_parts" not in plain.computed() and shown.computed()["ssl_parts"] is True

    specs = {"plain": plain, "shown": shown}
    models = [train(tmp_path / name, spec) for name, spec in specs.items()]
    assert_equal_models(*models, 0.0)

    rows = {name: pending_rows(tmp_path / name)[1:] for name in specs}
    for item, other in zip(rows["plain"], rows["shown"], strict=True):
        losses, with_halves = item["row"]["train_loss"], other["row"]["train_loss"]
        halves = with_halves.pop("ssl_image"), with_halves.pop("ssl_text")
        assert with_halves == losses
        assert sum(halves) / 2 == pytest.approx(losses["ssl"], rel=1e-6)
        assert halves[0] != halves[1]

    # Where one view is encoded there is no SSL term to take apart.
    single = objective_of(plain.model_copy(update={"loss": "mmcl", "ssl_parts": True}))
    image, text = features(2, 3)
    batch = Batch(image[None], text[None], torch.tensor(2.0), None, None)
    assert set(single.total(batch, None)) == {"loss", "mmcl"}


def test_a_half_that_is_minimised_keeps_its_gradient() -> None:
    [image, image_2, text, text_2] = features(4, 3)
    images = torch.stack([image, image_2]).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64)
    batch = Batch(images, torch.stack([text, text_2]), scale, None, None)
    base = OBJECTIVES["image_ssl"](1.0)
    for objective in (base, with_ssl_parts(base)):
        images.grad = None
        objective.total(batch, None)["loss"].backward()
        assert images.grad is not None and images.grad[1].any()


def test_every_name_has_an_implementation_that_takes_its_settings() -> None:
    assert OBJECTIVES.keys() == LOSSES.keys()
    assert DEFENCES.keys() == DEFENCE_NAMES.keys()
    for name in DEFENCES:
        for loss in LOSSES:
            spec = defended(run_spec(), name).model_copy(update={"loss": loss})
            assert objective_of(spec).weights
            assert spec.num_views == (DEFENCE_NAMES[name].views or LOSSES[loss].views)


def schedule(**changes: float | int | None) -> Schedule:
    sizes = {"global_batch_size": 64, "norm_batch_size": 64}
    values = {"learning_rate": 1e-3, "epochs": 20, "warmup_steps": 50, **sizes}
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
    """100K pairs in batches of 64: 1562 steps an epoch; CC6M in batches of 2048: 2929."""

    def share(spec: Schedule, step: int, steps: int) -> float:
        return learning_rate(spec, step, steps, "one_epoch") / 1e-3

    assert share(schedule(), 0, 1562) == pytest.approx(0.994, abs=5e-4)
    assert share(schedule(), 20 * 1562 - 1, 1562) == pytest.approx(0.006, abs=5e-4)
    assert share(schedule(), 20 * 1562 - 1, 1562) > share(schedule(), 19 * 1562, 1562)
    assert share(schedule(warmup_steps=10_000, epochs=64), 0, 2929) == pytest.approx(0.293)


def test_steps_of_a_truncated_schedule_keep_the_full_cosine() -> None:
    spec = schedule(epochs=64, warmup_steps=0)
    assert num_steps(run(schedule=spec, model_age=21), 100) == 2100
    assert num_steps(run(schedule=spec, model_age="best_validation_loss"), 100) == 6400
    assert learning_rate(spec, 2100, 100, "none") / 1e-3 == pytest.approx(
        (1 + math.cos(math.pi * 21 / 64)) / 2
    )


def test_thirds_of_an_epoch_collapse_onto_the_steps() -> None:
    spec = run(evaluations_per_epoch=3.0, evaluate_every_steps=None, schedule=schedule(epochs=2))
    assert evaluation_steps(spec, 10) == [0, 3, 7, 10, 13, 17, 20]
    assert evaluation_steps(spec, 1) == [0, 1, 2]


@pytest.mark.parametrize(("steps", "expected"), [(1562, [1500, 1562]), (3125, [1500, 3000, 3125])])
def test_authors_rhythm(steps: int, expected: list[int]) -> None:
    spec = run(evaluations_per_epoch=None, evaluate_every_steps=1500, schedule=schedule(epochs=1))
    assert evaluation_steps(spec, steps) == [0, *expected]
