"""Zero-shot top-1 accuracy and attack success, image by image (paper Sec. 3, "Metrics").

Shapes: N = evaluation images, n = those of a batch, C = classes, D = embedding width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int, UInt8
from open_clip.model import CLIP
from torch import Tensor

from repro.evaluate.folded import FoldedTower
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.spec import Precision
from repro.train.model import normalise
from repro.train.predictions import Predictions
from repro.train.process import distributed

IMAGE_BATCH = 256
"""Images in a forward pass, on any device and any number of ranks, for results to be the same."""


def evaluate_model(
    model: CLIP,
    evaluation: EvaluationSet,
    prompts: PromptSet,
    device: torch.device,
    draw: int = 0,
    precision: Precision = "fp32",
    between: Callable[[], None] = lambda: None,
    compiled: bool = False,
) -> Predictions:
    """Classify every image with and without the trigger; `compiled`: both in one pass of a folded
    and compiled image tower, which is equal to rounding.

    Ranks take every n-th batch and share the classes. `between` is called after each batch, equally
    often on every rank, and may raise to end the evaluation. The model is in eval mode meanwhile,
    and afterwards in the mode it was in.
    """
    # The batches are the same on any number of ranks; a rank takes every n-th of them.
    size, ranks = IMAGE_BATCH, distributed.ranks()
    count = len(evaluation)
    batches = [range(begin, min(begin + size, count)) for begin in range(0, count, size)]
    mine = batches[distributed.rank() :: ranks]
    rounds = len(batches[::ranks])

    # The text tower first: its classes serve for all images.
    classes = torch.full((count, 2), -1, device=device)
    with evaluating(model, precision, device):
        classifier = prompts.classifier(model, device)
        tower = FoldedTower(model.visual, 2 * size) if compiled else model
        between()

        for batch, images in zip(mine, evaluation.batches(mine, draw, device), strict=True):
            passes = [torch.cat(images)] if compiled else images
            both = torch.cat([predict(tower, part, classifier) for part in passes])
            classes[batch.start : batch.stop] = both.view(2, -1).T
            between()

        # A rank without a batch in the last round asks all the same, for asking may be collective.
        if len(mine) < rounds:
            between()

    # Every rank gets the classes of all images, each of which one rank has seen.
    of_ranks = distributed.gather_rows(classes[None])  # (ranks, N, 2)
    clean_classes, triggered_classes = of_ranks.amax(dim=0).cpu().numpy().T
    return Predictions(
        correct=clean_classes == evaluation.labels,
        attacked=triggered_classes == evaluation.target,
        classes=clean_classes,
        classes_triggered=triggered_classes,
    )


@torch.inference_mode()
def predict(
    model: CLIP | FoldedTower, images: UInt8[Tensor, "n H W 3"], classifier: Float[Tensor, "D C"]
) -> Int[Tensor, " n"]:
    """Class of the highest cosine similarity; the lowest class number wins a tie."""
    features = model.encode_image(normalise(images.permute(0, 3, 1, 2)), normalize=True)

    # In float32: bfloat16 would make ties of classes that are close.
    with torch.autocast(images.device.type, enabled=False):
        similarity = features.float() @ classifier  # (n, C)

    # A model that diverged gives NaN, which is taken as the highest, as NumPy takes it.
    similarity = similarity.masked_fill(similarity.isnan(), torch.inf)
    highest = similarity.amax(dim=1, keepdim=True)
    numbers = torch.arange(similarity.shape[1], device=images.device)
    return torch.where(similarity == highest, numbers, len(numbers)).amin(dim=1)


@contextmanager
def evaluating(model: CLIP, precision: Precision, device: torch.device) -> Iterator[None]:
    """The model in eval mode and arithmetic as `precision` says; both as they were afterwards."""
    was_training = model.training
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32

    # Settings of the process, not of the model: they must not leak into training.
    model.eval()
    matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        model.train(was_training)
