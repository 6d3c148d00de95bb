"""The image tower as evaluations of compiled runs use it: with BatchNorm folded into the
convolutions before it, and compiled. It is the same function to rounding, with less to read and
write.
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))
"""Names of a convolution and its BatchNorm in open_clip's ModifiedResNet; the last are those of a
shortcut.
"""


def fold(tower: nn.Module) -> nn.Module:
    """A copy of an image tower in eval mode, without BatchNorm."""
    folded = copy.deepcopy(tower)
    for block in [*folded.modules()]:
        for convolution, norm in PAIRS:
            if isinstance(getattr(block, norm, None), nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm))
                setattr(block, convolution, fused)
                setattr(block, norm, nn.Identity())
    return folded


class FoldedTower:
    """What `predict` asks of a model, by a folded tower. Towers of one shape share a graph."""

    def __init__(self, tower: nn.Module, size: int) -> None:
        self.tower, self.size = fold(tower), size
        self.features = torch.compile(_features)

    def encode_image(
        self, images: Float[Tensor, "n 3 H W"], normalize: bool = True
    ) -> Float[Tensor, "n D"]:
        """Features of at most `size` images, which are filled up to `size`."""
        assert normalize
        # A compiled graph serves one number of images.
        full = F.pad(images, (0, 0, 0, 0, 0, 0, 0, self.size - len(images)))
        full = full.contiguous(memory_format=torch.channels_last)
        return self.features(self.tower, full)[: len(images)]


def _features(tower: nn.Module, images: Tensor) -> Tensor:
    """As open_clip's `CLIP.encode_image`."""
    return F.normalize(tower(images), dim=-1)
