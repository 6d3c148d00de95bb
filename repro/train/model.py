"""The dual encoder at work: both towers on one rank's pairs, with BatchNorm over groups of them.

Shapes: b = pairs of this rank, V = views, L = tokens after trimming, D = embedding width.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from torch import Tensor, nn

from repro.train.views.tokens import CONTEXT_LENGTH

MAX_LOG_LOGIT_SCALE = 4.6052
"""Upper clamp of the log-temperature: log(100), CLIP's bound, as the authors rounded it: the factor
can reach 100.003 (code: CleanCLIP src/train.py).
"""


def normalise(
    images: UInt8[Tensor, "n 3 H W"],
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Pixels in 0..255 to CLIP's mean and standard deviation, channels last."""
    mean, std = statistics or pixel_statistics(images.device)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@lru_cache
def pixel_statistics(
    device: torch.device,
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """CLIP's mean and deviation of pixels in 0..255, copied to a device once."""
    with torch.inference_mode(False):  # what is made in inference mode cannot serve in training
        mean = torch.tensor(OPENAI_DATASET_MEAN, device=device).view(3, 1, 1) * 255
        std = torch.tensor(OPENAI_DATASET_STD, device=device).view(3, 1, 1) * 255
    return mean, std


def encode_text(model: CLIP, tokens: Int[Tensor, "n L"]) -> Float[Tensor, "n D"]:
    """L2-normalised text features of tokens that are trimmed to L <= 77, or padded to L <= 80.

    open_clip's `CLIP.encode_text` wants all 77 positions; the causal mask makes the feature at the
    end token independent of what follows, so that trimming and padding are exact to rounding. So is
    the last block for the end token alone: nothing reads its other positions.
    """
    length, rows = tokens.shape[1], torch.arange(len(tokens), device=tokens.device)
    end = tokens.argmax(dim=-1)  # the end token has the highest id
    places = F.pad(model.positional_embedding, (0, 0, 0, -CONTEXT_LENGTH % LENGTH_STEP))
    hidden = model.token_embedding(tokens) + places[:length]  # (n, L, width)

    # The blocks step by step, as open_clip's ResidualAttentionBlock. In all but the last a place
    # looks at itself and at those before it; told so, attention on a GPU reads no mask.
    *blocks, last = model.transformer.resblocks
    mask = nn.Transformer.generate_square_subsequent_mask(length, tokens.device)
    for block in blocks:
        normed = block.ln_1(hidden)
        attention, _ = block.attn(
            normed, normed, normed, attn_mask=mask, is_causal=True, need_weights=False
        )
        hidden = hidden + attention
        hidden = hidden + block.mlp(block.ln_2(hidden))

    # In the last the end token alone asks, and what comes after it is hidden (True in the mask) as
    # the causal mask would.
    normed = last.ln_1(hidden)
    later = torch.arange(length, device=tokens.device) > end[:, None]  # (n, L)
    attention, _ = last.attn(
        normed[rows, end][:, None], normed, normed, key_padding_mask=later, need_weights=False
    )
    pooled = hidden[rows, end] + attention[:, 0]  # (n, width)
    pooled = pooled + last.mlp(last.ln_2(pooled))

    return F.normalize(model.ln_final(pooled) @ model.text_projection, dim=-1)


LENGTH_STEP = 8
"""Parts of a batch's captions are padded to multiples of it: kernels of attention want them, and
fewer lengths are fewer compilations.
"""
Captions = tuple[list[Tensor], Tensor]
"""Tokens (m, l) in parts of like length, the shortest first, and where each of the n captions
stands in the parts, one after another.
"""


def captions_by_length(
    tokens: Int[Tensor, "V b L"], count: int, device: torch.device, compiled: bool
) -> Captions | Int[Tensor, "V b L"]:
    """Tokens on `device`, in at most `count` parts; those of the host, for a GPU must not be waited
    for to know the lengths.

    The parts are padded to multiples of LENGTH_STEP and marked, so that one graph of a `compiled`
    encoder serves all lengths; so is a single part.
    """
    if count == 1 and not compiled:
        return tokens.to(device, non_blocking=True)
    flat = F.pad(tokens.flatten(0, 1), (0, -tokens.shape[-1] % LENGTH_STEP))
    lengths = flat.argmax(dim=-1) + 1  # nothing is read of what follows the end token
    order = lengths.argsort(stable=True)

    parts = []
    for rows in order.chunk(count):
        longest = int(lengths[rows].max())
        part = _sent(flat[rows, : longest + -longest % LENGTH_STEP], device)
        # Without bounds: with them torch takes any guard on the length for an error, and on a GPU
        # attention has one, that the length is a multiple of 8.
        torch._dynamo.mark_dynamic(part, 1)
        parts.append(part)
    return parts, _sent(order.argsort(), device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`; from pageable memory a GPU's driver may have the host wait for it."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


class PairEncoder(nn.Module):
    """Both towers in one forward pass, the unit that DDP wraps.

    BatchNorm takes its statistics over `norm_groups` equal parts of this rank's pairs, each with
    its augmented views (the authors pass [clean, augmented] through the network as one batch on
    every GPU), and keeps the running statistics of the first part, as DDP keeps rank 0's: one rank
    with G groups equals G ranks with one.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: CLIP, norm_groups: int) -> None:
        super().__init__()
        self.model = model
        self.norm_groups = norm_groups
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

        # Buffers, for torch.compile would copy constants to the device in every step.
        mean, std = pixel_statistics(model.logit_scale.device)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    def forward(
        self,
        images: UInt8[Tensor, "V b 3 H W"],
        tokens: Captions | Int[Tensor, "V b L"],
        first: bool = True,
    ) -> tuple[Float[Tensor, "V b D"], Float[Tensor, "V b D"], Float[Tensor, ""]]:
        """Normalised image and text features, and the log of the logit scale.

        `first` is False where the pairs' first part is not that of the rank: it leaves no running
        statistics then.
        """
        views, pairs = images.shape[:2]
        features, statistics = [], (self.pixel_mean, self.pixel_std)
        for group, part in enumerate(images.chunk(self.norm_groups, dim=1)):
            # The share of the new in the running statistics: torch's default, or nothing.
            for norm in self.norms:
                norm.momentum = 0.1 if first and group == 0 else 0.0

            # Both views in one batch, so that BatchNorm's statistics mix them.
            features.append(
                self.model.encode_image(
                    normalise(part.flatten(0, 1), statistics), normalize=True
                ).view(views, part.shape[1], -1)
            )

        # The text tower has no BatchNorm and needs no groups.
        if isinstance(tokens, Tensor):
            texts = encode_text(self.model, tokens.flatten(0, 1))
        else:
            parts, places = tokens
            texts = torch.cat([encode_text(self.model, part) for part in parts])[places]
        return torch.cat(features, dim=1), texts.view(views, pairs, -1), self.model.logit_scale


def clamp_logit_scale(model: CLIP) -> None:
    """Keep the log-temperature in [0, `MAX_LOG_LOGIT_SCALE`] (code: CleanCLIP src/train.py)."""
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOG_LOGIT_SCALE)
