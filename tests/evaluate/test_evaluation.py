"""An evaluation as training calls it: on any number of ranks, in any precision, ended when asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.evaluate import zero_shot
from repro.evaluate.zero_shot import evaluate_model, evaluating, predict
from repro.profile import load_profile
from repro.spec import Trigger
from repro.train.model import build_model
from tests.support.evaluation import blocks, evaluation_set, switches, write_images
from tests.support.ranks import on_ranks

CPU, META = torch.device("cpu"), torch.device("meta")
SMOKE = load_profile("smoke")
BADNET = Trigger(name="badnet", patch_size=8)

RANK = """
import json, sys
from pathlib import Path
import numpy as np, torch
from repro.evaluate import zero_shot
from repro.spec import Trigger
from repro.train.process import distributed
from tests.evaluate.test_evaluation import BADNET, Clocked, centred_model
from tests.support.evaluation import evaluation_set, switches
folder, out = map(Path, sys.argv[1:3])
distributed.repeatable(1)
device = distributed.start()
zero_shot.IMAGE_BATCH = int(sys.argv[3])
model, classifier = centred_model(folder)
images = evaluation_set(folder, 32, BADNET, switches())
asked = []
found = zero_shot.evaluate_model(model, images, Clocked(classifier), device, between=lambda: asked.append(1))
(out / f"{distributed.rank()}.json").write_text(json.dumps([found.classes.tolist(), found.classes_triggered.tolist(), len(asked)]))
distributed.stop()
"""


class Clocked:
    """Prompts whose classifier is given."""

    def __init__(self, classifier: torch.Tensor) -> None:
        self.weights = classifier

    def classifier(self, model: object, device: torch.device) -> torch.Tensor:
        return self.weights


@torch.no_grad()
def centred_model(folder: Path) -> tuple[torch.nn.Module, torch.Tensor]:
    """A random model with BatchNorm statistics of the images, and directions that tell them apart."""
    model = build_model(SMOKE.pretrain.model, 3, "fp32")
    images = evaluation_set(folder, 32, BADNET, switches()).images
    pixels = zero_shot.normalise(torch.from_numpy(np.array(images[:64])).permute(0, 3, 1, 2))
    model.train()
    for _ in range(20):
        model.encode_image(pixels)

    middle = model.eval().encode_image(pixels, normalize=True).mean(dim=0)
    middle /= middle.norm()
    directions = torch.randn(len(middle), 10, generator=torch.Generator().manual_seed(0))
    return model, directions - middle[:, None] * (middle @ directions)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images of 32 x 40 pixels in ten classes."""
    return write_images(tmp_path_factory.mktemp("images") / "store", blocks(150, 32, 40), 10)


@pytest.mark.parametrize(("ranks", "batch"), [(3, 16), (2, 150)])
def test_ranks_find_to_the_last_bit_what_one_process_finds(
    store: Path, tmp_path: Path, ranks: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten batches on three ranks, of which one has a batch more, and one batch on two: all ask
    equally often.
    """
    monkeypatch.setattr(zero_shot, "IMAGE_BATCH", batch)
    model, classifier = centred_model(store)
    images = evaluation_set(store, 32, BADNET, switches())
    alone = evaluate_model(model, images, Clocked(classifier), CPU)  # type: ignore[arg-type]
    assert len(set(alone.classes)) > 3 and (alone.classes != alone.classes_triggered).any()

    rounds = math.ceil(math.ceil(150 / batch) / ranks)
    on_ranks(ranks, RANK, str(store), str(tmp_path), str(batch))

    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
    for classes, classes_triggered, asked in found:
        assert classes == alone.classes.tolist()
        assert classes_triggered == alone.classes_triggered.tolist()
        assert asked == 1 + rounds


def test_what_is_raised_between_batches_ends_the_evaluation_and_leaves_the_model_as_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "IMAGE_BATCH", 16)
    model, classifier = centred_model(store)
    model.train()
    images = evaluation_set(store, 32, BADNET, switches())
    calls = []

    def stop_at_the_third_batch() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError("stop")

    prompts = Clocked(classifier)
    with pytest.raises(InterruptedError, match="stop"):
        evaluate_model(
            model,  # type: ignore[arg-type]
            images,
            prompts,  # type: ignore[arg-type]
            CPU,
            between=stop_at_the_third_batch,
        )
    assert model.training and len(calls) == 4


@pytest.mark.parametrize(("precision", "flag"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_arithmetic_is_that_of_the_evaluation_and_goes_back_afterwards(
    precision: zero_shot.Precision, flag: bool
) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = not flag, flag  # whatever was before
    try:
        with evaluating(torch.nn.Identity(), precision, CPU):  # type: ignore[arg-type]
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (flag, flag)
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (not flag, flag)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = False, True


def test_bfloat16_makes_no_ties_of_close_classes() -> None:
    """Similarities 0.5 and 0.5 + 2^-12 are one number in bfloat16; the higher class must win."""

    class Same:
        def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
            return torch.ones((len(pixels), 1))

    classifier = torch.tensor([[0.5, 0.5 + 2**-12]])
    images = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    with evaluating(torch.nn.Identity(), "bf16", CPU):  # type: ignore[arg-type]
        assert predict(Same(), images, classifier).tolist() == [1]  # type: ignore[arg-type]


def test_the_first_nan_wins_as_it_does_in_numpy() -> None:
    """A model that diverged is evaluated once more; its rows must not depend on how a maximum
    treats NaN.
    """

    class Given:
        def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
            return rows

    rows = torch.tensor([[1.0, 2.0, 2.0], [torch.nan] * 3, [0.0, torch.nan, 5.0]])
    images = torch.zeros((3, 32, 32, 3), dtype=torch.uint8)
    found = predict(Given(), images, torch.eye(3)).tolist()  # type: ignore[arg-type]
    assert found[0] == rows[0].numpy().argmax()
    assert found[1] == rows[1].numpy().argmax() == 0
