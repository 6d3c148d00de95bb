"""Zero-shot top-1 accuracy and attack success, image by image (paper Sec. 3, "Metrics").

Shapes: N = evaluation images, C = classes, T = templates, D = embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.triggers import stamp
from repro.spec import Switches, Trigger
from repro.train import distributed
from repro.train.model import encode_text, normalise
from repro.train.predictions import Predictions
from repro.train.views.tokens import tokenize

IMAGE_BATCH = 256
TEXT_BATCH = 128
TRIGGERED_LIMIT = 2**30
"""Bytes up to which the fixed trigger set is kept in memory between evaluations."""


class PromptSet:
    """Every class name in every template, tokenised once; a prompt that occurs twice is encoded once."""

    def __init__(
        self,
        classnames: Sequence[str],
        templates: Sequence[Callable[[str], str]],
        truncation: Literal["keep_eot", "cut"],
    ) -> None:
        prompts = [fill(name) for name in classnames for fill in templates]
        unique = list(dict.fromkeys(prompts))
        position = {prompt: index for index, prompt in enumerate(unique)}
        self.members = torch.tensor([position[prompt] for prompt in prompts]).view(
            len(classnames), -1
        )  # (C, T)
        tokens = tokenize(unique, truncation).long()
        lengths = (tokens != 0).sum(dim=-1)
        self.order = lengths.argsort(
            stable=True
        )  # prompts of one length together, so that a batch is trimmed well
        self.tokens = tokens[self.order]
        self.lengths = lengths[self.order]

    @torch.inference_mode()
    def classifier(self, model: CLIP, device: torch.device) -> Float[Tensor, "D C"]:
        """Zero-shot classifier: for each class the normalised mean of its prompts' normalised embeddings."""
        encoded = []
        for begin in range(0, len(self.tokens), TEXT_BATCH):
            longest = int(self.lengths[begin : begin + TEXT_BATCH].max())
            encoded.append(
                encode_text(model, self.tokens[begin : begin + TEXT_BATCH, :longest].to(device))
            )
        features = torch.empty_like(torch.cat(encoded))
        features[self.order.to(device)] = torch.cat(encoded)
        return F.normalize(features[self.members.to(device)].mean(dim=1), dim=-1).T


class EvaluationSet:
    """The evaluation images, decoded once, their labels, and their triggered twins.

    `draw` keys the triggers: the same draw gives the same bytes (`evaluation_triggers: fixed` passes 0); `redrawn`
    passes a new draw per evaluation. The two passes share one decode.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        target: int,
        trigger: Trigger,
        switches: Switches,
        seed: int,
        cache: Path,
    ) -> None:
        store = PairStore.open(folder)
        self.images = store.decoded(size, cache)  # (N, H, W, 3) uint8
        self.labels = np.asarray(store.labels)
        self.target, self.trigger, self.switches, self.seed = target, trigger, switches, seed
        self.squashed = (
            store.decoded(size, cache, geometry="squash")
            if switches.trigger_geometry == "squash"
            else self.images
        )
        self._fixed: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_target(self) -> NDArray[np.bool_]:
        """(N,) images whose label is the target class."""
        matches: NDArray[np.bool_] = self.labels == self.target
        return matches

    def triggered(self, indices: range, draw: int) -> NDArray[np.uint8]:
        """Triggered twins of some images, (n, H, W, 3)."""
        if draw == 0 and self.images.nbytes <= TRIGGERED_LIMIT:
            if self._fixed is None:
                self._fixed = self._stamp(range(len(self)), draw)
            return self._fixed[indices.start : indices.stop]
        return self._stamp(indices, draw)

    def _stamp(self, indices: range, draw: int) -> NDArray[np.uint8]:
        stamped = [
            stamp(
                self.trigger,
                self.switches,
                self.squashed[i],
                keyed_rng("evaluation", self.seed, draw, i),
            )
            for i in indices
        ]
        return np.stack([item.image for item in stamped])


@torch.inference_mode()
def predict(
    model: CLIP, images: NDArray[np.uint8], classifier: Float[Tensor, "D C"], device: torch.device
) -> NDArray[np.int64]:
    """Class of the highest cosine similarity for (n, H, W, 3) images; the lowest class number wins a tie."""
    pixels = (
        torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)
    )  # a copy: memory maps are read-only
    similarity = model.encode_image(normalise(pixels), normalize=True) @ classifier  # (n, C)
    best: NDArray[np.int64] = similarity.float().cpu().numpy().argmax(axis=1)
    return best


def evaluate_model(
    model: CLIP, evaluation: EvaluationSet, prompts: PromptSet, device: torch.device, draw: int = 0
) -> Predictions:
    """Classify every image with and without the trigger.

    Ranks take every n-th batch and share what they find. The model is in eval mode meanwhile and goes back to the mode
    it was in.
    """
    was_training = model.training
    model.eval()
    classifier = prompts.classifier(model, device)
    outcomes = []
    for begin in range(
        distributed.rank() * IMAGE_BATCH, len(evaluation), IMAGE_BATCH * distributed.ranks()
    ):
        indices = range(begin, min(begin + IMAGE_BATCH, len(evaluation)))
        clean = predict(model, evaluation.images[indices.start : indices.stop], classifier, device)
        triggered = predict(model, evaluation.triggered(indices, draw), classifier, device)
        outcomes.append(
            np.stack([np.arange(indices.start, indices.stop), clean, triggered], axis=1)
        )
    model.train(was_training)
    mine = torch.from_numpy(
        np.concatenate(outcomes) if outcomes else np.zeros((0, 3), np.int64)
    ).to(device)
    table = distributed.gather_rows(mine).cpu().numpy()
    table = table[table[:, 0].argsort()]
    return Predictions(
        table[:, 1] == evaluation.labels, table[:, 2] == evaluation.target, table[:, 1], table[:, 2]
    )
