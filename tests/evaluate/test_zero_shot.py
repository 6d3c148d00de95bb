"""Evaluation of a hand-made model whose answers are known: exact accuracy and ASR in every variant."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

from repro.evaluate import zero_shot
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model, predict
from repro.profile import load_profile
from repro.train.model import build_model

CPU = torch.device("cpu")
CLASSES = ["apple", "banana", "cat", "dog"]


class Oracle:
    """Encodes an image of grey value v as the unit vector of class v; black is a tie of all
    classes.
    """

    training = True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        values = pixels[:, 0, 0, 0].round().long()
        return torch.where(
            (values == 0)[:, None], torch.full((len(values), 4), 0.5), torch.eye(5)[values][:, 1:]
        )


class Grey:
    """Evaluation images of one grey value each (class + 1); `flipped` of them turn to the target
    under the trigger.
    """

    def __init__(self, grey: list[int], labels: list[int], flipped: list[int]) -> None:
        self.images = np.array(grey, np.uint8)[:, None, None, None] * np.ones(
            (1, 4, 4, 3), np.uint8
        )
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
def test_accuracy_and_attacks_are_exact_for_any_batch_size(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six images: four right, one wrong, one tie (class 0 wins); two flipped by the trigger, a
    banana is banana anyway.
    """
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


def test_ties_go_to_the_lowest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "normalise", lambda pixels: pixels.float())
    black = torch.zeros((3, 4, 4, 3), dtype=torch.uint8)
    assert predict(Oracle(), black, torch.eye(4)).tolist() == [0, 0, 0]  # type: ignore[arg-type]


def test_classifier_is_the_renormalised_mean_of_normalised_prompt_embeddings() -> None:
    """Against the plain way: every prompt encoded by open_clip at full length, class by class."""
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    templates = ["a photo of a {}.", "{}", "a bad photo of a {}."]
    got = PromptSet(CLASSES, [t.format for t in templates], "keep_eot").classifier(model, CPU)
    from open_clip import get_tokenizer

    tokenizer = get_tokenizer("RN50-quickgelu")
    with torch.no_grad():
        for column, name in enumerate(CLASSES):
            embeddings = model.encode_text(
                tokenizer([t.format(name) for t in templates]), normalize=True
            )
            expected = torch.nn.functional.normalize(embeddings.mean(dim=0), dim=-1)
            torch.testing.assert_close(got[:, column], expected, rtol=0, atol=1e-6)


def test_equal_prompts_are_encoded_once_and_tie_exactly() -> None:
    """ImageNet names "sunglasses" twice; both columns must be the same bits so that the tie rule
    decides.
    """
    prompts = PromptSet(
        ["sunglasses", "banana", "sunglasses"], OPENAI_IMAGENET_TEMPLATES, "keep_eot"
    )
    assert len(prompts.tokens) == 160
    classifier = prompts.classifier(
        build_model(load_profile("smoke").pretrain.model, 0, "fp32"), CPU
    )
    assert torch.equal(classifier[:, 0], classifier[:, 2]) and not torch.equal(
        classifier[:, 0], classifier[:, 1]
    )
