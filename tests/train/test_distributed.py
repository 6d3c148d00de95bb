"""Several CPU ranks against one process: gradients, validation loss, the model that is saved."""

from datetime import timedelta
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

    ranks, part = distributed.ranks(), BATCH // distributed.ranks()
    mine = slice(part * distributed.rank(), part * (distributed.rank() + 1))
    features = (F.normalize(x[:, mine] @ weight, dim=-1) for x in inputs)
    image, text = map(distributed.gather_features, features)
    batch = Batch(image, text, distributed.share(log_scale, gather).exp(), None, None)
    loss = weighted(mmcl=1.0, ssl=1.0).total(batch, None)["loss"]
    (loss * distributed.backward_scale(gather)).backward()
    for gradient in (weight.grad, log_scale.grad):
        if ranks > 1:
            torch.distributed.all_reduce(gradient)
            gradient /= ranks
    return {"loss": loss.item(), "weight": weight.grad.tolist(), "scale": log_scale.grad.item()}


@pytest.mark.parametrize("ranks", [2, 4])
def test_exact_gather_gives_the_single_process_gradient(ranks: int) -> None:
    first, alone = on_ranks(ranks, computed, "exact")[0], computed("exact")
    for name, expected in alone.items():
        assert np.array(first[name]) == pytest.approx(np.array(expected), rel=1e-10, abs=1e-12)


def test_authors_gather_divides_the_encoders_gradient_but_not_the_temperatures() -> None:
    """Own slice in the graph, whole loss, average over ranks: d/encoder is 1/R, d/scale whole."""
    first, alone = on_ranks(2, computed, "authors")[0], computed("exact")
    halved = np.array(alone["weight"]) / 2
    assert np.array(first["weight"]) == pytest.approx(halved, rel=1e-10, abs=1e-12)
    for name in ("scale", "loss"):
        assert first[name] == pytest.approx(alone[name], rel=1e-10, abs=1e-12)


def test_on_gpus_the_group_knows_its_device_and_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended machine with two GPUs: what NCCL is started with."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **given: asked.update(given, of=name)
    )
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)

    device = distributed.start(["0", "1"])
    assert asked["of"] == "nccl" and asked["device_id"] == device == torch.device("cuda", 1)
    assert timedelta(minutes=1) <= asked["timeout"] <= timedelta(minutes=30)


PAIRS, PART = 6, 2


def stored() -> tuple[Tensor, Tensor]:
    """Twelve pairs."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2 * PAIRS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(1, 999, (2 * PAIRS, 8), generator=generator)


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
    expected = []
    for part in (slice(0, PAIRS), slice(PAIRS, 2 * PAIRS)):
        image = F.normalize(model.visual(normalise(images[part])), dim=-1)
        text = model.encode_text(F.pad(tokens[part], (0, 69)), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        match = torch.arange(PAIRS)
        cross = F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)
        expected.append(cross.item() / 2)
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_ranks_share_the_work_and_get_one_loss() -> None:
    """Three pairs of each global batch a rank: two parts, the second of one pair."""
    assert distributed.ranks() == 1
    (loss, sizes), other = on_ranks(2, measured)
    assert other == [loss, sizes] and (max(sizes), len(sizes)) == (PART, 4)
    assert loss == pytest.approx(measured()[0], rel=1e-6)


IMAGES = 48


def predict(model: torch.nn.Module, rank: int, ranks: int) -> Predictions:
    """Predictions that any changed bit changes; each rank takes every n-th batch of four."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    model.eval()
    # How many threads share a convolution may change its last bit.
    with one_thread(), torch.inference_mode():
        mine = [
            (batch, model.encode_image(normalise(images[4 * batch : 4 * batch + 4])))
            for batch in range(rank, IMAGES // 4, ranks)
        ]
    order = distributed.gather_rows(torch.tensor([batch for batch, _ in mine])).argsort()
    features = torch.cat([features for _, features in mine]).unflatten(0, (-1, 4))
    features = distributed.gather_rows(features)[order].flatten(0, 1)
    classes = features.view(torch.int32).sum(dim=1).abs().numpy() % 1000
    return Predictions(classes % 2 == 0, classes % 3 == 0, classes, classes + 1)


class Unlike:
    """Pairs of which each rank sees only images of its own brightness."""

    steps_per_epoch = 4
    rows = np.arange(64)

    def batches(self, start: int, stop: int, workers: int):
        rank, ranks = distributed.rank(), distributed.ranks()
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(100 * step + rank)
            images = torch.randint(0, 60, (2, 16 // ranks, 3, 32, 32), generator=generator)
            tokens = torch.randint(1, 99, (2, 16 // ranks, 8), generator=generator)
            yield (images + 45 * rank).to(torch.uint8), tokens


def pretraining_spec():
    """Pre-training of 8 steps on 16 pairs, evaluated four times."""
    spec = run_spec(optimizer_state="fresh", mode_after_evaluation="train")
    return pretraining_of(scheduled(spec, global_batch_size=16, norm_batch_size=4))


def pretraining(path: str) -> None:
    """One rank's part of it; rank 0 also keeps every evaluated model as `<step>.safetensors`."""
    folder = Path(path)

    def evaluate(model, step: int, *_: object) -> Predictions:
        if distributed.rank() == 0:
            save_tensors(folder / f"{step}.safetensors", model.state_dict())
        return predict(model, distributed.rank(), distributed.ranks())

    run_to_outcome(folder, pretraining_spec(), evaluate, pairs=Unlike(), num_images=IMAGES)


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_of_a_pretraining_are_those_of_its_saved_model(ranks: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    on_ranks(ranks, pretraining, str(folder))
    records = list(pending_rows(folder))
    assert [record["row"]["step"] for record in records] == [0, 3, 4, 7, 8]

    spec = pretraining_spec()
    model = build_model(spec.model, 1, "fp32")
    seen = set()
    for record in records:
        row = record["row"]
        model.load_state_dict(load_file(folder / f"{row['step']}.safetensors"))
        alone = predict(model, 0, 1)
        assert row["num_correct"] == alone.correct.sum()
        assert row["num_attacked"] == alone.attacked.sum()
        samples = sample_images(IMAGES)
        assert row["sample_classes"] == alone.classes[samples].tolist()
        assert row["sample_classes_triggered"] == alone.classes_triggered[samples].tolist()
        seen.add(str(row["sample_classes"]))
    assert len(seen) == len(records)  # training did change what is predicted

    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert (predict(model, 0, 1).classes == alone.classes).all()
