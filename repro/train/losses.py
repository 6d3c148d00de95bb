"""Training objectives: MMCL, SSL and their weighted sum (paper Sec. 3, Eq. 1 and 2).

Shapes: B = pairs in the gathered batch, D = embedding width. Features arrive L2-normalised and
gathered over ranks; `logit_scale` is the multiplier itself, exp(model.logit_scale) = 1/tau, at most
100. The same scale serves both terms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def mmcl_loss(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over all B x B pairs; image i matches text i (Eq. 1)."""
    # Cosine similarities over tau. Row i holds image i against its text and, as negatives, against
    # the B - 1 others of the batch; column i the same for text i.
    logits_per_image = logit_scale * image_features @ text_features.T  # (B, B)

    # Both directions are classifications whose right answer is the diagonal.
    matches = torch.arange(len(image_features), device=image_features.device)
    return (
        F.cross_entropy(logits_per_image, matches) + F.cross_entropy(logits_per_image.T, matches)
    ) / 2


def ssl_loss(
    image_features: Float[Tensor, "B D"],
    image_features_augmented: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    text_features_augmented: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Cross-entropy of each view against the augmented views of its own modality, one direction
    each (Eq. 2).
    """
    # Within a modality, and on the very embeddings that Eq. 1 compares: no projection head.
    matches = torch.arange(len(image_features), device=image_features.device)
    logits_image = logit_scale * image_features @ image_features_augmented.T  # (B, B)
    logits_text = logit_scale * text_features @ text_features_augmented.T  # (B, B)

    # From the view as stored to the augmented one only, not back.
    return (F.cross_entropy(logits_image, matches) + F.cross_entropy(logits_text, matches)) / 2


def total_loss(
    weights: dict[str, float],
    image_features: Float[Tensor, "V B D"],
    text_features: Float[Tensor, "V B D"],
    logit_scale: Float[Tensor, ""],
    clusters: Float[Tensor, ""] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Weighted sum of the terms, and the terms by name: `{"loss", "mmcl", "ssl", "clusters"}`
    (paper Sec. 3, L_CleanCLIP).

    V = views: 1 where the SSL weight is 0, else the pair and its augmented view. Terms of weight 0
    are left out. `clusters` is the deep-clustering term where there is one (see
    repro/train/clustering.py).
    """
    # Of the V views 0 is the pair itself, and 1, where there is one, its augmented view.
    parts: dict[str, Tensor] = {} if clusters is None else {"clusters": clusters}
    if weights["mmcl"]:
        parts["mmcl"] = mmcl_loss(image_features[0], text_features[0], logit_scale)
    if weights["ssl"]:
        parts["ssl"] = ssl_loss(
            image_features[0], image_features[1], text_features[0], text_features[1], logit_scale
        )

    # The parts are handed on unweighted: rows and tracker show them as they are.
    return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}  # type: ignore[dict-item]
