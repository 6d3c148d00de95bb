"""Deep clustering as a term of the cleaning loss (Caron et al. 2018, arXiv 1807.05520; a remedy of
the paper's long version).

At the start of every epoch spherical k-means groups the cleaning images by their features, and a
new linear head learns to tell the groups apart. Labels and head are part of the model's state, so
that a checkpoint carries them.

Shapes: N = cleaning pairs, B = pairs in the global batch, D = embedding width.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.train.model import normalise
from repro.train.objectives import Batch, Epoch, Losses, Objective
from repro.train.pairs import TrainingPairs

ITERATIONS = 20
"""Iterations of k-means (code: attack-cleanclip, deep clustering)."""
CLUSTER_BATCH = 128


def deep_clustering(base: Objective, clusters: int, weight: float) -> Objective:
    """`base` with a term that tells `clusters` groups of images apart."""

    def loss(batch: Batch, modules: nn.Module | None) -> Losses:
        assert isinstance(modules, Clusters)
        return {"clusters": modules.loss(batch), **base.loss(batch, None)}

    def begin_epoch(modules: nn.Module | None, epoch: Epoch) -> None:
        assert isinstance(modules, Clusters)
        modules.renew(epoch)

    return replace(
        base,
        weights={"clusters": weight, **base.weights},
        loss=loss,
        modules=lambda width, pairs: Clusters(pairs, width, clusters),
        begin_epoch=begin_epoch,
    )


class Clusters(nn.Module):
    """Cluster labels of the cleaning pairs and the head that predicts them."""

    labels: Tensor

    def __init__(self, num_pairs: int, width: int, num_clusters: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, num_clusters)
        self.register_buffer("labels", torch.zeros(num_pairs, dtype=torch.long))

    def renew(self, epoch: Epoch) -> None:
        """Group the pairs by their features in eval mode; start the head from random weights."""
        try:
            import faiss
        except ImportError:
            raise RuntimeError(
                "defence: deep_clustering needs faiss: pip install 'repro[clustering]'"
            ) from None

        features = image_features(epoch.model, epoch.pairs).float().cpu().numpy()
        # Spherical: similarity is the cosine, as in CLIP's losses. Without the last option faiss
        # warns below 39 points a cluster, and small profiles have fewer.
        kmeans = faiss.Kmeans(
            features.shape[1],
            self.head.out_features,
            niter=ITERATIONS,
            spherical=True,
            seed=epoch.seed,
            min_points_per_centroid=1,
        )
        kmeans.train(features)

        # A search gives (similarities, indices of the centroids), each (N, 1).
        nearest = kmeans.index.search(features, 1)[1][:, 0]
        self.labels.copy_(torch.from_numpy(nearest))

        # Cluster numbers mean nothing across epochs, so neither do the weights that learnt them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch.seed)
            fresh = nn.Linear(self.head.in_features, self.head.out_features)

        # In place, for the optimizer and DDP hold these very tensors; their moments are dropped.
        self.head.load_state_dict(fresh.state_dict())
        for parameter in self.head.parameters():
            epoch.optimizer.state.pop(parameter, None)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the head against the labels of the batch's images as they are stored."""
        assert batch.members is not None
        weight, bias = batch.share(self.head.weight), batch.share(self.head.bias)
        return F.cross_entropy(F.linear(batch.images[0], weight, bias), self.labels[batch.members])


@torch.inference_mode()
def image_features(model: CLIP, pairs: TrainingPairs) -> Float[Tensor, "N D"]:
    """Normalised features of all pairs' stored images, in eval mode."""
    # In eval mode an image's features do not depend on the images beside it.
    was_training, device = model.training, model.logit_scale.device
    model.eval()
    features = [
        model.encode_image(normalise(pairs.pixels(part.numpy()).to(device)), normalize=True)
        for part in torch.arange(len(pairs.rows)).split(CLUSTER_BATCH)
    ]
    model.train(was_training)
    return torch.cat(features)
