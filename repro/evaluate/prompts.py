"""The zero-shot task in words: class names in templates, and the classifier that a model makes of
them (paper Sec. 3, "Metrics").

Shapes: C = classes, T = templates, D = embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor

from repro.train.model import encode_text
from repro.train.views.tokens import tokenize

TEXT_BATCH = 128
"""Prompts in a forward pass on a CPU: a batch whose tensors stay in its cache."""

CUDA_TEXT_BATCH = 2048
"""The same on a GPU, where a small batch costs as many kernel launches as a large one."""


class PromptSet:
    """Every class name in every template, tokenised once; equal prompts are encoded once."""

    def __init__(
        self,
        classnames: Sequence[str],
        templates: Sequence[Callable[[str], str]],
        truncation: Literal["keep_eot", "cut"],
    ) -> None:
        # Classes may share a name: ImageNet has two of sunglasses.
        prompts = [fill(name) for name in classnames for fill in templates]
        unique = list(dict.fromkeys(prompts))
        position = {prompt: index for index, prompt in enumerate(unique)}

        # Prompts of one length stand together, so that a batch is trimmed well.
        tokens = tokenize(unique, truncation).long()
        lengths = (tokens != 0).sum(dim=-1)
        order = lengths.argsort(stable=True)
        self.tokens, self.lengths = tokens[order], lengths[order]

        # Where the prompts of a class stand, (C, T).
        flat = torch.tensor([position[prompt] for prompt in prompts])
        self.members = order.argsort()[flat].view(len(classnames), -1)

    @torch.inference_mode()
    def classifier(self, model: CLIP, device: torch.device) -> Float[Tensor, "D C"]:
        """For each class the normalised mean of its prompts' normalised embeddings, float32."""
        # Batch by batch, each as long as its longest prompt.
        batch = CUDA_TEXT_BATCH if device.type == "cuda" else TEXT_BATCH
        encoded = []
        for begin in range(0, len(self.tokens), batch):
            longest = int(self.lengths[begin : begin + batch].max())
            tokens = self.tokens[begin : begin + batch, :longest].to(device)
            encoded.append(encode_text(model, tokens).float())

        # Normalised before the mean and after it, as OpenAI's zero-shot classifier is.
        means = torch.cat(encoded)[self.members.to(device)].mean(dim=1)
        return F.normalize(means, dim=-1).T
