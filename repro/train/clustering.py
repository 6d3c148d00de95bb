"""Deep clustering as a term of the cleaning loss (Caron et al. 2018, arXiv 1807.05520; a remedy of
the paper's long version).

At the start of every epoch spherical k-means groups the cleaning images by their features, and a
new linear head learns to tell the groups apart. Labels and head are part of the model's state, so
that a checkpoint carries them.

Shapes: N = cleaning pairs, B = pairs in the global batch, D = embedding width, K = clusters.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.spec import RunSpec
from repro.train.model import normalise
from repro.train.pairs import TrainingPairs
from repro.train.process import distributed

ITERATIONS = 20
"""Iterations of k-means (code: attack-cleanclip, deep clustering)."""
CLUSTER_BATCH = 128


class Clusters(nn.Module):
    """Cluster labels of the cleaning pairs and the head that predicts them."""

    labels: Tensor

    def __init__(self, num_pairs: int, width: int, num_clusters: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, num_clusters)
        self.register_buffer("labels", torch.zeros(num_pairs, dtype=torch.long))

    def renew(
        self, model: CLIP, pairs: TrainingPairs, optimizer: torch.optim.Optimizer, seed: int
    ) -> None:
        """Group the pairs anew by the features of `model` in eval mode, and start the head from
        random weights.
        """
        try:
            import faiss
        except ImportError:
            raise RuntimeError(
                "mitigation.clusters: deep clustering needs faiss: pip install 'repro[clustering]'"
            ) from None

        features = image_features(model, pairs).float().cpu().numpy()
        # Spherical: similarity is the cosine, as in CLIP's losses. Without the last option faiss
        # warns below 39 points a cluster, and small profiles have fewer.
        options = {
            "niter": ITERATIONS,
            "spherical": True,
            "seed": seed,
            "min_points_per_centroid": 1,
        }
        kmeans = faiss.Kmeans(features.shape[1], self.head.out_features, **options)
        kmeans.train(features)

        # A search gives (similarities, indices of the centroids), each (N, 1).
        nearest = kmeans.index.search(features, 1)[1][:, 0]
        self.labels.copy_(torch.from_numpy(nearest))

        # Cluster numbers mean nothing across epochs, so neither do the weights that learnt them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = nn.Linear(self.head.in_features, self.head.out_features)

        # In place, for the optimizer and DDP hold these very tensors; their moments are dropped.
        self.head.load_state_dict(fresh.state_dict())
        for parameter in self.head.parameters():
            optimizer.state.pop(parameter, None)

    def loss(
        self,
        features: Float[Tensor, "B D"],
        positions: Int[Tensor, " B"],
        gather: Literal["exact", "authors"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the head against the labels of the batch's pairs."""
        # Every rank has the whole batch, hence the head's whole gradient (as of the temperature).
        weight = distributed.share(self.head.weight, gather)
        bias = distributed.share(self.head.bias, gather)
        return F.cross_entropy(F.linear(features, weight, bias), self.labels[positions])


def attach(model: CLIP, spec: RunSpec, num_pairs: int) -> Clusters | None:
    """Give the model the labels and the head that the run's deep-clustering term needs, if it has
    one.
    """
    if not spec.loss_weights["clusters"]:
        return None

    # Only a mitigation gives the term a weight; pre-training has none.
    assert spec.mitigation is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        clusters = Clusters(num_pairs, spec.model.embed_dim, spec.mitigation.clusters).to(
            model.logit_scale.device
        )

    # A submodule: checkpoint and optimizer take in labels and head with everything else.
    model.clusters = clusters
    return clusters


@torch.inference_mode()
def image_features(model: CLIP, pairs: TrainingPairs) -> Float[Tensor, "N D"]:
    """Normalised features of all pairs' stored images, in eval mode; the model goes back to the
    mode it was in.
    """
    # In eval mode an image's features do not depend on the images beside it.
    was_training = model.training
    model.eval()
    device = model.logit_scale.device
    features = []
    for part in torch.arange(len(pairs.rows)).split(CLUSTER_BATCH):
        pixels = pairs.pixels(part.numpy()).to(device)
        features.append(model.encode_image(normalise(pixels), normalize=True))

    model.train(was_training)
    return torch.cat(features)
