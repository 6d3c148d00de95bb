"""Training objectives: MMCL, SSL and their weighted sum (paper Sec. 3, Eq. 1 and 2).

An objective is a loss of one batch of embeddings. `OBJECTIVES` lists those that a specification may
name as its loss; defences (repro/train/defences.py) may add terms, or bring their own.

Shapes: B = pairs in the gathered batch, V = views, D = embedding width. Embeddings arrive
L2-normalised and gathered over ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.names import Loss
from repro.train.pairs import TrainingPairs
from repro.train.process import distributed

Losses = dict[str, Tensor]
"""Loss parts by name."""


@dataclass(frozen=True)
class Batch:
    """The embeddings of a global batch, on every rank; its own rows alone are in its graph."""

    images: Float[Tensor, "V B D"]
    """View 0 is the pair itself, view 1, where there is one, its augmented view."""
    texts: Float[Tensor, "V B D"]
    scale: Float[Tensor, ""]
    """exp(model.logit_scale) = 1/tau, at most 100."""
    members: Int[Tensor, " B"] | None
    """Positions of the pairs among those of the run; None for an objective without modules."""
    start: tuple[Float[Tensor, "V B D"], Float[Tensor, "V B D"]] | None
    """Images and texts by the frozen start model, where the objective needs them."""
    gather: Literal["exact", "authors"] = "exact"
    """`Switches.gather`."""

    def share(self, parameter: Tensor) -> Tensor:
        """A parameter of the objective's own modules, as the loss must use it: every rank computes
        its whole gradient, so each takes its share.
        """
        return distributed.share(parameter, self.gather)


@dataclass(frozen=True)
class Epoch:
    """What an objective may work with before an epoch."""

    model: CLIP
    pairs: TrainingPairs
    optimizer: torch.optim.Optimizer
    seed: int
    """Of the run and the step."""


@dataclass(frozen=True)
class Objective:
    """A loss of one batch, with what it needs."""

    weights: Mapping[str, float]
    """Factor on each part; the weighted sum is minimised."""
    loss: Callable[[Batch, nn.Module | None], Losses]
    """(batch, modules) to the parts, unweighted: rows and tracker show them as they are."""
    needs_start: bool = False
    """Keep the start model frozen, and encode every batch by it too."""
    modules: Callable[[int, int], nn.Module] | None = None
    """(embedding width, pairs of the run) to modules of its own, which become part of the model."""
    begin_epoch: Callable[[nn.Module | None, Epoch], None] | None = None
    """Called with the modules before each epoch, on every rank with the same model."""

    def total(self, batch: Batch, modules: nn.Module | None) -> Losses:
        """The parts, and their weighted sum as `loss`."""
        parts = self.loss(batch, modules)
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}  # type: ignore[dict-item]


def mmcl_loss(
    images: Float[Tensor, "B D"], texts: Float[Tensor, "B D"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean of the cross-entropies from images to texts and from texts to images (Eq. 1)."""
    # Row i holds the similarities of image i to all texts of the batch; column i those of text i.
    logits_per_image = scale * images @ texts.T  # (B, B)

    # Both directions are classifications whose right answer is the diagonal.
    matches = torch.arange(len(images), device=images.device)
    return (
        F.cross_entropy(logits_per_image, matches) + F.cross_entropy(logits_per_image.T, matches)
    ) / 2


def ssl_loss(
    images: Float[Tensor, "V B D"], texts: Float[Tensor, "V B D"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Cross-entropy of each view against the augmented views of its own modality (Eq. 2)."""
    # On the embeddings that Eq. 1 compares, without a projection head, and with the same scale.
    matches = torch.arange(images.shape[1], device=images.device)
    logits_image = scale * images[0] @ images[1].T  # (B, B)
    logits_text = scale * texts[0] @ texts[1].T  # (B, B)

    # From the view as stored to the augmented one only, not back.
    return (F.cross_entropy(logits_image, matches) + F.cross_entropy(logits_text, matches)) / 2


def one_modality(name: str, images: bool) -> Objective:
    """MMCL, and the SSL term of images or of texts alone, at the half that it has in Eq. 2."""

    def loss(batch: Batch, _: nn.Module | None) -> Losses:
        views = batch.images if images else batch.texts
        matches = torch.arange(views.shape[1], device=views.device)
        logits = batch.scale * views[0] @ views[1].T  # (B, B)
        mmcl = mmcl_loss(batch.images[0], batch.texts[0], batch.scale)
        return {"mmcl": mmcl, name: F.cross_entropy(logits, matches)}

    return Objective({"mmcl": 1.0, name: 0.5}, loss)


def two_views(batch: Batch, _: nn.Module | None) -> Losses:
    """MMCL of the pairs as stored and of their augmented views: the augmentations of Eq. 2 without
    its comparison of views.
    """
    stored, augmented = (
        mmcl_loss(images, texts, batch.scale)
        for images, texts in zip(batch.images, batch.texts, strict=True)
    )
    return {"mmcl": stored, "augmented": augmented}


def contrastive(mmcl: float, ssl: float) -> Objective:
    """MMCL and SSL with these weights; a term of weight 0 is not computed."""
    weights = {name: weight for name, weight in (("mmcl", mmcl), ("ssl", ssl)) if weight}

    def loss(batch: Batch, _: nn.Module | None) -> Losses:
        parts = {}
        if "mmcl" in weights:
            parts["mmcl"] = mmcl_loss(batch.images[0], batch.texts[0], batch.scale)
        if "ssl" in weights:
            parts["ssl"] = ssl_loss(batch.images, batch.texts, batch.scale)
        return parts

    return Objective(weights, loss)


OBJECTIVES: dict[Loss, Callable[[float], Objective]] = {
    "mmcl": lambda ssl_weight: contrastive(1.0, 0.0),
    "ssl": lambda ssl_weight: contrastive(0.0, ssl_weight),
    "mmcl_ssl": lambda ssl_weight: contrastive(1.0, ssl_weight),
    # Parts of MMCL + SSL, for what makes its models hard to clean.
    "two_views": lambda ssl_weight: Objective({"mmcl": 1.0, "augmented": 1.0}, two_views),
    "image_ssl": lambda ssl_weight: one_modality("ssl_image", images=True),
    "text_ssl": lambda ssl_weight: one_modality("ssl_text", images=False),
    "ssl_unused": lambda ssl_weight: Objective(
        {"mmcl": 1.0, "ssl": 0.0}, contrastive(1.0, 1.0).loss
    ),
}
"""Objective by the loss that a specification names; the argument is the weight of the SSL term
(paper Sec. 3: L_CleanCLIP = L_MMCL + L_SSL; code: both weights 1)."""
