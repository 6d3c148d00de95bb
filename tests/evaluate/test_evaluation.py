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
from repro.evaluate.folded import FoldedTower, fold
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model, evaluating, predict
from repro.profile import load_profile
from repro.spec import Trigger
from repro.train.build import build_model
from repro.train.loop import MOST_GRAPHS
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
    some = torch.from_numpy(np.array(images[:64]))
    channels_first = some.permute(0, 3, 1, 2)
    pixels = zero_shot.normalise(channels_first)
    model.train()
    for _ in range(20):
        model.encode_image(pixels)

    model.eval()
    middle = model.encode_image(pixels, normalize=True).mean(dim=0)
    middle /= middle.norm()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(len(middle), 10, generator=generator)
    along_middle = middle[:, None] * (middle @ directions)
    return model, directions - along_middle


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images of 32 x 40 pixels in ten classes."""
    folder = tmp_path_factory.mktemp("images") / "store"
    return write_images(folder, blocks(150, 32, 40), classes=10)


def prompts_of(classifier: torch.Tensor) -> Any:
    """Prompts whose classifier is given."""
    return SimpleNamespace(classifier=lambda model, device: classifier)


def found_here(folder: str, batch: int) -> tuple[list[int], list[int], int]:
    """Classes without and with the trigger, and how often it was asked whether to stop."""
    if distributed.ranks() > 1:
        distributed.repeatable(1)
    model, classifier = centred_model(Path(folder))
    images = evaluation_set(Path(folder), 32, BADNET, switches())
    prompts = prompts_of(classifier)
    asked: list[int] = []

    def between() -> None:
        asked.append(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot, "IMAGE_BATCH", batch)
        found = evaluate_model(model, images, prompts, CPU, between=between)  # type: ignore[arg-type]
    classes = found.classes.tolist()
    triggered = found.classes_triggered.tolist()
    return classes, triggered, len(asked)


@pytest.mark.parametrize(("ranks", "batch"), [(3, 16), (2, 150)])
def test_ranks_find_to_the_last_bit_what_one_finds(store: Path, ranks: int, batch: int) -> None:
    """Ten batches on three ranks, of which one has a batch more, and one batch on two."""
    with one_thread():
        classes, triggered, _ = found_here(str(store), batch)
    assert len(set(classes)) > 3
    assert classes != triggered

    batches = math.ceil(150 / batch)
    rounds = math.ceil(batches / ranks)
    found = on_ranks(ranks, found_here, str(store), batch)
    assert found == [[classes, triggered, 1 + rounds]] * ranks


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
        prompts = prompts_of(classifier)
        plain = evaluate_model(model, images, prompts, CPU, compiled=False)  # type: ignore[arg-type]
        folded = evaluate_model(model, images, prompts, CPU, compiled=True)  # type: ignore[arg-type]
        assert len(set(plain.classes)) > 3
        assert (folded.classes == plain.classes).all()
        assert (folded.classes_triggered == plain.classes_triggered).all()

    (graph,) = graphs
    used = [str(node.target) for node in graph.graph.nodes]
    assert any("conv2d" in name for name in used)
    assert not any("batch_norm" in name for name in used)

    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    with torch.no_grad():
        features = fold(model.visual)(pixels)  # type: ignore[operator, arg-type]
        expected = model.visual(pixels)  # type: ignore[operator]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    # The model itself is as it was.
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_folded_towers_of_a_process_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process evaluates more models than it may have graphs, beyond which it would end."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", MOST_GRAPHS)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.utils.counters.clear()
    model = build_model(SMOKE.pretrain.model, 3, "fp32").eval()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        for number in range(MOST_GRAPHS + 2):
            tower = FoldedTower(model.visual, 4)  # type: ignore[arg-type]
            assert len(tower.encode_image(pixels[: 1 + number % 3])) == 1 + number % 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


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

    prompts = prompts_of(classifier)
    with pytest.raises(InterruptedError, match="stop"):
        evaluate_model(model, images, prompts, CPU, between=stop_at_the_third_batch)  # type: ignore[arg-type]
    assert model.training
    assert len(calls) == 4


def tf32() -> tuple[bool, bool]:
    """Whether matrix products and convolutions may use it."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def set_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize(
    ("precision", "flag"),
    [
        ("fp32", False),
        ("tf32", True),
        ("bf16", True),
    ],
)
def test_arithmetic_is_its_own_and_goes_back(precision: zero_shot.Precision, flag: bool) -> None:
    set_tf32(products=not flag, convolutions=flag)  # whatever was before
    try:
        with evaluating(torch.nn.Identity(), precision, CPU):  # type: ignore[arg-type]
            assert tf32() == (flag, flag)
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert tf32() == (not flag, flag)
    finally:
        set_tf32(products=False, convolutions=True)


def black(count: int) -> torch.Tensor:
    """Images (N, 32, 32, 3) of zeros."""
    return torch.zeros((count, 32, 32, 3), dtype=torch.uint8)


def given(rows: list[list[float]]) -> Any:
    """A model whose features are given."""
    features = torch.tensor(rows)
    return SimpleNamespace(encode_image=lambda pixels, normalize: features)


def test_bfloat16_makes_no_ties_of_close_classes() -> None:
    """Similarities 0.5 and 0.5 + 2^-12 are one number in bfloat16; the higher class must win."""
    classifier = torch.tensor([[0.5, 0.5 + 2**-12]])
    with evaluating(torch.nn.Identity(), "bf16", CPU):  # type: ignore[arg-type]
        found = predict(given([[1.0]]), black(1), classifier)
    assert found.tolist() == [1]


def test_the_first_nan_wins_as_it_does_in_numpy() -> None:
    """A model that diverged is evaluated once more; a maximum of NaN must not decide its rows."""
    rows = [
        [1.0, 2.0, 2.0],
        [math.nan, math.nan, math.nan],
        [0.0, math.nan, 5.0],
    ]
    first, second, _ = predict(given(rows), black(3), torch.eye(3)).tolist()
    assert first == np.argmax(rows[0])
    assert second == np.argmax(rows[1])
    assert second == 0


CLASSES = ["apple", "banana", "cat", "dog"]


class Oracle:
    """Encodes an image of grey value v as the unit vector of class v; black is a tie of all."""

    training = True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        of_value = torch.eye(5)[:, 1:]
        of_value[0] = 0.5
        values = pixels[:, 0, 0, 0].round().long()
        return of_value[values]


class Grey:
    """Images of one grey value each (class + 1); the trigger turns `flipped` to the target."""

    target = 1

    def __init__(self, grey: list[int], labels: list[int], flipped: list[int]) -> None:
        values = np.array(grey, np.uint8).reshape(-1, 1, 1, 1)
        self.images = np.tile(values, (1, 4, 4, 3))
        self.labels = np.array(labels)
        self.flipped = flipped

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
    evaluation = Grey(
        grey=[1, 2, 3, 4, 1, 0],
        labels=[0, 1, 2, 3, 2, 0],
        flipped=[0, 2],
    )
    model = Oracle()
    prompts = prompts_of(torch.eye(4))
    found = evaluate_model(model, evaluation, prompts, CPU)  # type: ignore[arg-type]

    assert found.correct.tolist() == [True, True, True, True, False, True]
    assert found.attacked.tolist() == [True, True, True, False, False, False]
    assert found.classes.tolist() == [0, 1, 2, 3, 0, 0]
    assert found.classes_triggered.tolist() == [1, 1, 1, 3, 0, 0]
    assert model.training  # back in the mode it was in


def test_classifier_is_the_renormalised_mean_of_normalised_prompt_embeddings() -> None:
    """Against the plain way: every prompt encoded by open_clip at full length, class by class."""
    model = build_model(SMOKE.pretrain.model, 0, "fp32")
    templates = ["a photo of a {}.", "{}", "a bad photo of a {}."]
    fills = [template.format for template in templates]
    prompts = PromptSet(CLASSES, fills, "keep_eot")
    got = prompts.classifier(model, CPU)

    tokenizer = get_tokenizer("RN50-quickgelu")
    for column, name in enumerate(CLASSES):
        tokens = tokenizer([fill(name) for fill in fills])
        with torch.no_grad():
            embeddings = model.encode_text(tokens, normalize=True)
        mean = embeddings.mean(dim=0)
        expected = mean / mean.norm()
        torch.testing.assert_close(got[:, column], expected, rtol=0, atol=1e-6)


def test_equal_prompts_are_encoded_once_and_tie_exactly() -> None:
    """ImageNet names "sunglasses" twice; both columns must be the same bits for the tie rule."""
    names = ["sunglasses", "banana", "sunglasses"]
    prompts = PromptSet(names, OPENAI_IMAGENET_TEMPLATES, "keep_eot")
    assert len(prompts.tokens) == 160
    model = build_model(SMOKE.pretrain.model, 0, "fp32")
    first, second, third = prompts.classifier(model, CPU).T
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
