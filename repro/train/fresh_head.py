"""CleanCLIP whose SSL term compares views behind new projection heads (SimCLR's, Chen et al. 2020,
arXiv 2002.05709): a term that a model pre-trained with SSL has not minimised.

Shapes: V = views, B = pairs in the global batch, D = embedding width.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repro.train.objectives import Batch, Losses, Objective, mmcl_loss, ssl_loss


class Heads(nn.Module):
    """A linear layer, a ReLU and a linear layer for each modality, all of the embedding's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(2)
        )

    def project(
        self, head: nn.Sequential, views: Float[Tensor, "V B D"], batch: Batch
    ) -> Float[Tensor, "V B D"]:
        """Normalised outputs of a head."""
        first, second = ([batch.share(p) for p in head[layer].parameters()] for layer in (0, 2))
        out = F.linear(F.relu(F.linear(views, *first)), *second)
        return F.normalize(out, dim=-1)


def loss(batch: Batch, modules: nn.Module | None) -> Losses:
    """MMCL of the embeddings, SSL (Eq. 2) of what the heads make of them."""
    assert isinstance(modules, Heads)
    images = modules.project(modules.image, batch.images, batch)
    texts = modules.project(modules.text, batch.texts, batch)
    return {
        "mmcl": mmcl_loss(batch.images[0], batch.texts[0], batch.scale),
        "ssl": ssl_loss(images, texts, batch.scale),
    }


FRESH_HEAD = Objective({"mmcl": 1.0, "ssl": 1.0}, loss, modules=Heads)
