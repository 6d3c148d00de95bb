"""Training objectives: MMCL, SSL and their weighted sum (paper Sec. 3, Eq. 1 and 2).

An objective is a loss of one batch of embeddings. `OBJECTIVES` lists those that a specification may
name as its loss; defences (repro/train/defences.py) may add terms, or bring their own.

Shapes: B = pairs in the gathered batch, V = views, D = embedding width. Embeddings arrive
L2-normalised and gathered over ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.names import Loss
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
class Step:
    """What a defence may work with in a step."""

    model: CLIP
    optimizer: torch.optim.Optimizer
    backward: Callable[[], Losses]
    """Adds the gradient at the present weights and returns the loss parts; may be called more than
    once, with zeroed gradients in between."""
    settings: Mapping[str, float]
    """Those of the defence by name."""
    start: Mapping[str, Tensor]
    """Parameters of the start model by name, where the defence keeps them; else empty."""


@dataclass(frozen=True)
class Objective:
    """A loss of one batch, with what it needs."""

    weights: Mapping[str, float]
    """Factor on each part that is minimised, in their weighted sum."""
    loss: Callable[[Batch, nn.Module | None], Losses]
    """(batch, modules) to the parts, unweighted: rows and tracker show them as they are, those
    without a weight too.
    """
    needs_start: bool = False
    """Keep the start model frozen, and encode every batch by it too."""
    modules: Callable[[int], nn.Module] | None = None
    """Embedding width to modules of its own, which become part of the model."""

    def total(self, batch: Batch, modules: nn.Module | None) -> Losses:
        """The parts, and their weighted sum as `loss`."""
        parts = self.loss(batch, modules)
        total = sum(weight * parts[name] for name, weight in self.weights.items())
        return {"loss": total, **parts}  # type: ignore[dict-item]


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


def view_loss(views: Float[Tensor, "V B D"], scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Cross-entropy of each view against the augmented views of its own modality."""
    # On the embeddings that Eq. 1 compares, without a projection head, and with the same scale.
    # From the view as stored to the augmented one only, not back.
    logits = scale * views[0] @ views[1].T  # (B, B)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def ssl_loss(
    images: Float[Tensor, "V B D"], texts: Float[Tensor, "V B D"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean of the `view_loss` of both modalities (Eq. 2)."""
    return (view_loss(images, scale) + view_loss(texts, scale)) / 2


TERMS: dict[str, Callable[[Batch], Tensor]] = {
    "mmcl": lambda batch: mmcl_loss(batch.images[0], batch.texts[0], batch.scale),
    "ssl": lambda batch: ssl_loss(batch.images, batch.texts, batch.scale),
    "augmented": lambda batch: mmcl_loss(batch.images[1], batch.texts[1], batch.scale),
    "ssl_image": lambda batch: view_loss(batch.images, batch.scale),
    "ssl_text": lambda batch: view_loss(batch.texts, batch.scale),
}
"""Parts of the losses, by the names that rows and tracker show."""


def weighted(**weights: float) -> Objective:
    """The terms of these names with these weights."""
    return Objective(weights, lambda batch, _: {name: TERMS[name](batch) for name in weights})


def with_ssl_parts(base: Objective) -> Objective:
    """`base` with both halves of the SSL term, image and text, among the parts that are shown."""

    def loss(batch: Batch, modules: nn.Module | None) -> Losses:
        with torch.no_grad():
            halves = {name: TERMS[name](batch) for name in ("ssl_image", "ssl_text")}
        # A half that `base` minimises stays in its graph.
        return {**halves, **base.loss(batch, modules)}

    return replace(base, loss=loss)


OBJECTIVES: dict[Loss, Callable[[float], Objective]] = {
    "mmcl": lambda ssl_weight: weighted(mmcl=1.0),
    "ssl": lambda ssl_weight: weighted(ssl=ssl_weight),
    # The SSL term needs a second view, which pairs do not have where its weight is 0.
    "mmcl_ssl": lambda weight: weighted(mmcl=1.0, ssl=weight) if weight else weighted(mmcl=1.0),
    # Parts of MMCL + SSL, for what makes its models hard to clean: the augmentations of Eq. 2
    # without its comparison of views; one modality, at the half that it has in Eq. 2.
    "two_views": lambda ssl_weight: weighted(mmcl=1.0, augmented=1.0),
    "image_ssl": lambda ssl_weight: weighted(mmcl=1.0, ssl_image=0.5),
    "text_ssl": lambda ssl_weight: weighted(mmcl=1.0, ssl_text=0.5),
    "ssl_unused": lambda ssl_weight: weighted(mmcl=1.0, ssl=0.0),
}
"""Objective by the loss that a specification names; the argument is the weight of the SSL term
(paper Sec. 3: L_CleanCLIP = L_MMCL + L_SSL; code: both weights 1)."""
