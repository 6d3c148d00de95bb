"""Several CPU ranks against one process: gradients, validation loss, the model that is saved."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from repro.ledger import pending_rows, sample_images
from repro.train.build import build_model
from repro.train.model import normalise
from repro.train.objectives import Batch, weighted
from repro.train.predictions import Predictions
from repro.train.process import distributed
from repro.train.process.checkpoint import save_tensors
from repro.train.validation import validation_loss
from tests.support.ranks import on_ranks, one_thread
from tests.support.short_run import pretraining_of, run_spec, run_to_outcome, scheduled

BATCH, WIDTH = 8, 6


def computed(gather: str) -> dict[str, Any]:
    """Loss, and gradients of this rank's share as DDP averages them."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    inputs = [draw(2, BATCH, WIDTH) for _ in range(2)]
    weight = draw(WIDTH, WIDTH).requires_grad_()
    log_scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    ranks, rank = distributed.ranks(), distributed.rank()
    gathered = []
    for pairs in inputs:
        mine = pairs.chunk(ranks, dim=1)[rank]
        features = F.normalize(mine @ weight, dim=-1)
        gathered.append(distributed.gather_features(features))
    image, text = gathered
    scale = distributed.share(log_scale, gather).exp()
    batch = Batch(image, text, scale, start=None)
    loss = weighted(mmcl=1.0, ssl=1.0).total(batch, None)["loss"]
    (loss * distributed.backward_scale(gather)).backward()

    for gradient in (weight.grad, log_scale.grad):
        if ranks > 1:
            torch.distributed.all_reduce(gradient)
            gradient /= ranks
    return {
        "loss": loss.item(),
        "weight": weight.grad.tolist(),
        "scale": log_scale.grad.item(),
    }


def near(expected: Any) -> Any:
    """Equal but for rounding in float64."""
    return pytest.approx(np.array(expected), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("ranks", [2, 4])
def test_exact_gather_gives_the_single_process_gradient(ranks: int) -> None:
    first, *_ = on_ranks(ranks, computed, "exact")
    alone = computed("exact")
    for name, expected in alone.items():
        assert np.array(first[name]) == near(expected)


def test_authors_gather_divides_the_encoders_gradient_but_not_the_temperatures() -> None:
    """Own slice in the graph, whole loss, average over ranks: d/encoder is 1/R, d/scale whole."""
    first, _ = on_ranks(2, computed, "authors")
    alone = computed("exact")
    halved = np.array(alone["weight"]) / 2
    assert np.array(first["weight"]) == near(halved)
    assert first["scale"] == near(alone["scale"])
    assert first["loss"] == near(alone["loss"])


PAIRS, PART = 6, 2


def random_pixels(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def stored() -> tuple[Tensor, Tensor]:
    """Twelve pairs."""
    generator = torch.Generator().manual_seed(3)
    count = 2 * PAIRS
    images = random_pixels((count, 3, 32, 32), generator)
    tokens = torch.randint(1, 999, (count, 8), generator=generator)
    return images, tokens


def measured() -> tuple[float, list[int]]:
    """The loss, and how many pairs were encoded at a time on this rank."""
    images, tokens = stored()
    sizes = []

    def pixels(positions: np.ndarray) -> Tensor:
        sizes.append(len(positions))
        return images[positions]

    spec = scheduled(run_spec(), global_batch_size=PAIRS, norm_batch_size=PART)
    stores = {"pixels": pixels, "tokens": tokens.__getitem__}
    pairs = SimpleNamespace(spec=spec, steps_per_epoch=2, **stores)
    model = build_model(spec.model, 0, "fp32").train()
    loss = validation_loss(model, pairs)  # type: ignore[arg-type]
    assert model.training
    return loss, sizes


def test_validation_loss_is_the_mean_of_equation_one_over_global_batches() -> None:
    """Though no more pairs are encoded at a time than a group of BatchNorm has."""
    loss, sizes = measured()
    assert sizes == [PART] * 6

    model = build_model(run_spec().model, 0, "fp32").eval()
    images, tokens = stored()
    match = torch.arange(PAIRS)
    expected = []
    for pixels, captions in zip(images.split(PAIRS), tokens.split(PAIRS), strict=True):
        image = F.normalize(model.visual(normalise(pixels)), dim=-1)
        padded = F.pad(captions, (0, 69))
        text = model.encode_text(padded, normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        to_texts = F.cross_entropy(logits, match)
        to_images = F.cross_entropy(logits.T, match)
        expected.append((to_texts + to_images).item() / 2)
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_ranks_share_the_work_and_get_one_loss() -> None:
    """Three pairs of each global batch a rank: two parts, the second of one pair."""
    assert distributed.ranks() == 1
    first, second = on_ranks(2, measured)
    assert first == second
    loss, sizes = first
    assert len(sizes) == 4
    assert max(sizes) == PART
    alone, _ = measured()
    assert loss == pytest.approx(alone, rel=1e-6)


IMAGES = 48


def predict(model: torch.nn.Module, rank: int, ranks: int) -> Predictions:
    """Predictions that any changed bit changes; each rank takes every n-th batch of four."""
    generator = torch.Generator().manual_seed(1)
    images = random_pixels((IMAGES, 3, 32, 32), generator)
    batches = images.split(4)
    mine = range(rank, len(batches), ranks)
    model.eval()
    # How many threads share a convolution may change its last bit.
    with one_thread(), torch.inference_mode():
        encoded = [model.encode_image(normalise(batches[number])) for number in mine]

    numbers = distributed.gather_rows(torch.tensor(mine))
    features = distributed.gather_rows(torch.stack(encoded))
    in_order = features[numbers.argsort()].flatten(0, 1)
    classes = in_order.view(torch.int32).sum(dim=1).abs().numpy() % 1000
    return Predictions(
        correct=classes % 2 == 0,
        attacked=classes % 3 == 0,
        classes=classes,
        classes_triggered=classes + 1,
    )


class Unlike:
    """Pairs of which each rank sees only images of its own brightness."""

    steps_per_epoch = 4
    rows = np.arange(64)

    def batches(self, start: int, stop: int, workers: int):
        rank, ranks = distributed.rank(), distributed.ranks()
        shape = (2, 16 // ranks)
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(100 * step + rank)
            dark = torch.randint(0, 60, (*shape, 3, 32, 32), generator=generator)
            tokens = torch.randint(1, 99, (*shape, 8), generator=generator)
            images = dark + 45 * rank
            yield images.to(torch.uint8), tokens


def pretraining_spec():
    """Pre-training of 8 steps on 16 pairs, evaluated four times."""
    spec = run_spec(optimizer_state="fresh", mode_after_evaluation="train")
    return pretraining_of(scheduled(spec, global_batch_size=16, norm_batch_size=4))


def pretraining(path: str) -> None:
    """One rank's part of it; rank 0 also keeps every evaluated model as `<step>.safetensors`."""
    folder = Path(path)
    rank, ranks = distributed.rank(), distributed.ranks()

    def evaluate(model, step: int, *_: object) -> Predictions:
        if rank == 0:
            save_tensors(folder / f"{step}.safetensors", model.state_dict())
        return predict(model, rank, ranks)

    run_to_outcome(folder, pretraining_spec(), evaluate, pairs=Unlike(), num_images=IMAGES)


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_of_a_pretraining_are_those_of_its_saved_model(ranks: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    on_ranks(ranks, pretraining, str(folder))
    rows = pending_rows(folder)
    assert [row.step for row in rows] == [0, 3, 4, 7, 8]

    spec = pretraining_spec()
    model = build_model(spec.model, 1, "fp32")
    seen = set()
    for row in rows:
        model.load_state_dict(load_file(folder / f"{row.step}.safetensors"))
        alone = predict(model, 0, 1)
        assert row.num_correct == alone.correct.sum()
        assert row.num_attacked == alone.attacked.sum()
        samples = sample_images(IMAGES)
        assert row.sample_classes == alone.classes[samples].tolist()
        assert row.sample_classes_triggered == alone.classes_triggered[samples].tolist()
        seen.add(str(row.sample_classes))
    assert len(seen) == len(rows)  # training did change what is predicted

    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert (predict(model, 0, 1).classes == alone.classes).all()
