"""A step over several BatchNorm groups with the memory of one (gradient cache; Gao et al. 2021,
arXiv 2101.06983).

The contrastive loss needs the features of the whole batch, but not their graphs. So: features of
all groups without a graph; loss, and its gradient at the features; then each group forward once
more, with its graph, and backward from that gradient. BatchNorm takes its statistics per group
anyway and nothing is random, so the result is that of the plain step but for the order of sums. It
costs a second forward pass: a third more time.
"""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Int, UInt8
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.data.memory import at_most_limit, machine_memory
from repro.spec import RunSpec
from repro.train.build import build_model
from repro.train.model import PairEncoder
from repro.train.process import distributed
from repro.train.shares import MEMORY_SHARE

Features = tuple[Tensor, Tensor, Tensor]
"""Image features (V, b, D), text features (V, b, D), log of the logit scale."""


class GradientCache(nn.Module):
    """The encoder of a rank whose pairs are taken group by group."""

    def __init__(self, model: CLIP, groups: int, compiled: bool) -> None:
        super().__init__()
        self.model, self.groups = model, groups

        # It gets one group at a time.
        self.encoder = PairEncoder(model, 1)
        if compiled:
            self.encoder.compile()

        # No DDP wraps this encoder, so what DDP does at its making is done here.
        distributed.broadcast(model.state_dict().values())

    def backward(
        self,
        images: UInt8[Tensor, "V b 3 H W"],
        tokens: Int[Tensor, "V b L"],
        encode: Callable[..., Features],
        losses_of: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
        scale: float,
    ) -> dict[str, Tensor]:
        """Leave the gradient of the loss times `scale` in the model, averaged over ranks; returns
        the loss parts.

        `encode(encoder, images, tokens, first)` runs the encoder on a group, `losses_of` makes the
        global batch's losses of this rank's features and the log of the logit scale.
        """
        parts = images.chunk(self.groups, dim=1), tokens.chunk(self.groups, dim=1)
        groups = [*zip(*parts, strict=True)]

        # All features, no graph; the second pass is the one that BatchNorm counts. Without the flag
        # it takes the batch's statistics all the same, and leaves running ones and counters alone.
        self._track_statistics(False)
        with torch.no_grad():
            encoded = [torch.stack(encode(self.encoder, *group, True)[:2]) for group in groups]
        self._track_statistics(True)

        # A leaf of the loss's graph, so that its gradient at the features stays in `grad`. The
        # temperature, and the heads of an objective, lie in the graph and get theirs now.
        features = torch.cat(encoded, dim=2).requires_grad_()  # images and texts, (2, V, b, D)
        losses = losses_of(features[0], features[1], self.model.logit_scale)
        (losses["loss"] * scale).backward()
        assert features.grad is not None

        # Each group's graph lives from its forward to its backward pass. The first group is the one
        # whose statistics BatchNorm keeps. Gradients of the groups add up in the weights.
        gradients = features.grad.chunk(self.groups, dim=2)
        for number, (group, gradient) in enumerate(zip(groups, gradients, strict=True)):
            torch.stack(encode(self.encoder, *group, number == 0)[:2]).backward(gradient)

        average_gradients(self.model)
        return losses

    def _track_statistics(self, track: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = track


def average_gradients(model: nn.Module) -> None:
    """Mean of every gradient over ranks, as DDP would leave it."""
    if distributed.ranks() > 1:
        for gradient in [weight.grad for weight in model.parameters() if weight.grad is not None]:
            total = gradient.contiguous()  # of channels-last ones a copy
            dist.all_reduce(total)
            gradient.copy_(total / distributed.ranks())


def needs_cache(spec: RunSpec, groups: int, device: torch.device) -> bool:
    """Whether the groups of a rank are too much at once for the memory of rank 0.

    Its answer holds for all: ranks with the cache and ranks with DDP would wait for each other.
    """
    # A single group is the least that a step can take.
    if groups == 1:
        return False

    needed = groups * group_bytes(spec) > MEMORY_SHARE * _memory_bytes(device)
    return bool(distributed.from_first(int(needed), device))


def group_bytes(spec: RunSpec) -> int:
    """Bytes that backward keeps of one group with captions of full length, weights not counted."""
    views, side, pairs = spec.num_views, spec.model.vision.image_size, spec.schedule.norm_batch_size

    # By address, for backward may keep several views of one storage. Held, so that no other storage
    # gets the same address.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # Tensors of the device "meta" have shapes and no memory: nothing is taken for the measurement.
    with torch.device("meta"):
        model = build_model(spec.model, 0, "fp32")
        images = torch.zeros(views, pairs, 3, side, side, dtype=torch.uint8)
        tokens = torch.zeros(views, pairs, spec.model.text.context_length, dtype=torch.long)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        PairEncoder(model, 1)(images, tokens)
    total = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    return total // 2 if spec.precision == "bf16" else total  # autocast knows no device "meta"


def _memory_bytes(device: torch.device) -> int:
    """Memory of the GPU, or this rank's part of the machine's."""
    if device.type == "cuda":
        return at_most_limit(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
