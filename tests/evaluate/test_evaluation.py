"""An evaluation as training calls it: exact counts, any ranks, any precision, ended when asked."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES, get_tokenizer

from repro.evaluate import zero_shot
from repro.evaluate.folded import fold
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model, evaluating, predict
from repro.profile import load_profile
from repro.spec import Trigger
from repro.train.build import build_model
from repro.train.process import distributed
from tests.support.evaluation import blocks, evaluation_set, switches, write_images
from tests.support.ranks import on_ranks, one_thread

CPU = torch.device("cpu")
SMOKE = load_profile("smoke")
BADNET = Trigger(name="badnet", patch_size=8)


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


def found_here(folder: str, batch: int) -> tuple[list[int], list[int], int]:
    """Classes without and with the trigger, and how often it was asked whether to stop."""
    if distributed.ranks() > 1:
        distributed.repeatable(1)
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot, "IMAGE_BATCH", batch)
        model, classifier = centred_model(Path(folder))
        images = evaluation_set(Path(folder), 32, BADNET, switches())
        prompts: Any = SimpleNamespace(classifier=lambda *_: classifier)
        found = evaluate_model(model, images, prompts, CPU, between=lambda: asked.append(1))  # type: ignore[arg-type]
    return found.classes.tolist(), found.classes_triggered.tolist(), len(asked)


@pytest.mark.parametrize(("ranks", "batch"), [(3, 16), (2, 150)])
def test_ranks_find_to_the_last_bit_what_one_finds(store: Path, ranks: int, batch: int) -> None:
    """Ten batches on three ranks, of which one has a batch more, and one batch on two."""
    with one_thread():
        classes, triggered, _ = found_here(str(store), batch)
    assert len(set(classes)) > 3 and classes != triggered
    rounds = math.ceil(math.ceil(150 / batch) / ranks)
    found = on_ranks(ranks, found_here, str(store), batch)
    assert found == [[classes, triggered, 1 + rounds]] * ranks


@pytest.mark.slow
def test_a_folded_and_compiled_tower_is_the_model_to_rounding(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same classes with and without the trigger, by one graph for all batches and models."""
    graphs: list[torch.fx.GraphModule] = []

    def traced(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    monkeypatch.setattr(zero_shot, "IMAGE_BATCH", 64)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    images = evaluation_set(store, 32, BADNET, switches())
    for _ in range(2):
        model, classifier = centred_model(store)
        prompts: Any = SimpleNamespace(classifier=lambda *_, found=classifier: found)
        plain, folded = (
            evaluate_model(model, images, prompts, CPU, compiled=choice)  # type: ignore[arg-type]
            for choice in (False, True)
        )
        assert len(set(plain.classes)) > 3
        assert (folded.classes == plain.classes).all()
        assert (folded.classes_triggered == plain.classes_triggered).all()
    (graph,) = graphs
    used = [str(node.target) for node in graph.graph.nodes]
    assert [name for name in used if "conv2d" in name]
    assert not [name for name in used if "batch_norm" in name]
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            fold(model.visual)(pixels), model.visual(pixels), rtol=0, atol=1e-5
        )  # type: ignore[operator]
    # The model itself is as it was.
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_an_error_between_batches_ends_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "IMAGE_BATCH", 16)
    model, classifier = centred_model(store)
    model.train()
    images = evaluation_set(store, 32, BADNET, switches())
    calls = []

    def stop_at_the_third_batch() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError("stop")

    prompts: Any = SimpleNamespace(classifier=lambda *_: classifier)
    with pytest.raises(InterruptedError, match="stop"):
        evaluate_model(model, images, prompts, CPU, between=stop_at_the_third_batch)  # type: ignore[arg-type]
    assert model.training and len(calls) == 4


@pytest.mark.parametrize(("precision", "flag"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_arithmetic_is_its_own_and_goes_back(precision: zero_shot.Precision, flag: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = not flag, flag  # whatever was before
    try:
        with evaluating(torch.nn.Identity(), precision, CPU):  # type: ignore[arg-type]
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (flag, flag)
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (not flag, flag)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = False, True


def given(rows: list[list[float]]) -> Any:
    """A model whose features are given."""
    return SimpleNamespace(encode_image=lambda pixels, normalize: torch.tensor(rows))


def test_bfloat16_makes_no_ties_of_close_classes() -> None:
    """Similarities 0.5 and 0.5 + 2^-12 are one number in bfloat16; the higher class must win."""
    classifier = torch.tensor([[0.5, 0.5 + 2**-12]])
    images = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    with evaluating(torch.nn.Identity(), "bf16", CPU):  # type: ignore[arg-type]
        assert predict(given([[1.0]]), images, classifier).tolist() == [1]


def test_the_first_nan_wins_as_it_does_in_numpy() -> None:
    """A model that diverged is evaluated once more; a maximum of NaN must not decide its rows."""
    rows = [[1.0, 2.0, 2.0], [math.nan] * 3, [0.0, math.nan, 5.0]]
    images = torch.zeros((3, 32, 32, 3), dtype=torch.uint8)
    found = predict(given(rows), images, torch.eye(3)).tolist()
    assert found[0] == np.argmax(rows[0]) and found[1] == np.argmax(rows[1]) == 0


CLASSES = ["apple", "banana", "cat", "dog"]


class Oracle:
    """Encodes an image of grey value v as the unit vector of class v; black is a tie of all."""

    training = True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        values = pixels[:, 0, 0, 0].round().long()
        return torch.where((values == 0)[:, None], 0.5, torch.eye(5)[values][:, 1:])


class Grey:
    """Images of one grey value each (class + 1); the trigger turns `flipped` to the target."""

    def __init__(self, grey: list[int], labels: list[int], flipped: list[int]) -> None:
        self.images = np.tile(np.array(grey, np.uint8)[:, None, None, None], (1, 4, 4, 3))
        self.labels, self.flipped, self.target = np.array(labels), flipped, 1

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batches: list[range], draw: int, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in batches:
            images = self.images[batch.start : batch.stop]
            twins = images.copy()
            for position, index in enumerate(batch):
                if index in self.flipped:
                    twins[position] = 2
            yield torch.from_numpy(images), torch.from_numpy(twins)


@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_counts_are_exact_by_any_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four right, one wrong, one tie (class 0 wins); two flipped, a banana is one anyway."""
    monkeypatch.setattr(zero_shot, "IMAGE_BATCH", batch)
    monkeypatch.setattr(zero_shot, "normalise", lambda pixels: pixels.float())
    evaluation = Grey(grey=[1, 2, 3, 4, 1, 0], labels=[0, 1, 2, 3, 2, 0], flipped=[0, 2])
    prompts = SimpleNamespace(classifier=lambda model, device: torch.eye(4))
    model = Oracle()
    correct, attacked, classes, triggered = evaluate_model(model, evaluation, prompts, CPU)  # type: ignore[arg-type]
    assert correct.tolist() == [True, True, True, True, False, True]
    assert attacked.tolist() == [True, True, True, False, False, False]
    assert classes.tolist() == [0, 1, 2, 3, 0, 0] and triggered.tolist() == [1, 1, 1, 3, 0, 0]
    assert model.training  # back in the mode it was in


def test_classifier_is_the_renormalised_mean_of_normalised_prompt_embeddings() -> None:
    """Against the plain way: every prompt encoded by open_clip at full length, class by class."""
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    templates = ["a photo of a {}.", "{}", "a bad photo of a {}."]
    got = PromptSet(CLASSES, [t.format for t in templates], "keep_eot").classifier(model, CPU)
    tokenizer = get_tokenizer("RN50-quickgelu")
    with torch.no_grad():
        for column, name in enumerate(CLASSES):
            tokens = tokenizer([t.format(name) for t in templates])
            embeddings = model.encode_text(tokens, normalize=True)
            expected = torch.nn.functional.normalize(embeddings.mean(dim=0), dim=-1)
            torch.testing.assert_close(got[:, column], expected, rtol=0, atol=1e-6)


def test_equal_prompts_are_encoded_once_and_tie_exactly() -> None:
    """ImageNet names "sunglasses" twice; both columns must be the same bits for the tie rule."""
    names = ["sunglasses", "banana", "sunglasses"]
    prompts = PromptSet(names, OPENAI_IMAGENET_TEMPLATES, "keep_eot")
    assert len(prompts.tokens) == 160
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    first, second, third = prompts.classifier(model, CPU).T
    assert torch.equal(first, third) and not torch.equal(first, second)
