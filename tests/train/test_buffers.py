"""What several ranks evaluate is the one model that rank 0 saves, BatchNorm statistics included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from repro.ledger import pending_rows, sample_images
from repro.train.model import build_model, normalise
from repro.train.predictions import Predictions
from repro.train.process import distributed
from repro.train.process.checkpoint import save_tensors
from tests.support.ranks import on_ranks
from tests.support.short_run import pretraining_of, run_spec, run_to_outcome
from tests.support.threads import one_thread

IMAGES = 48
RANK = """
import sys
from pathlib import Path
from repro.train.process import distributed
from tests.train.test_buffers import pretraining
distributed.start()
pretraining(Path(sys.argv[1]))
distributed.stop()
"""


def predict(model: torch.nn.Module, rank: int, ranks: int) -> Predictions:
    """Predictions that one changed bit of a feature changes; each rank takes every n-th batch of
    four images.
    """
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
    schedule = spec.schedule.model_copy(update={"global_batch_size": 16, "norm_batch_size": 4})
    return pretraining_of(spec, schedule=schedule)


def pretraining(folder: Path) -> None:
    """One rank's part of it; rank 0 also keeps every evaluated model as `<step>.safetensors`."""

    def evaluate(model, step: int, *_: object) -> Predictions:
        if distributed.rank() == 0:
            save_tensors(folder / f"{step}.safetensors", model.state_dict())
        return predict(model, distributed.rank(), distributed.ranks())

    run_to_outcome(folder, pretraining_spec(), evaluate, pairs=Unlike(), num_images=IMAGES)


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_of_a_pretraining_are_those_of_its_saved_model_evaluated_alone(
    ranks: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    on_ranks(ranks, RANK, str(folder))
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
