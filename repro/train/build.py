"""The dual encoder at its start: open_clip's CLIP classes, with the authors' initialisation and
parameter groups.

The paper's model is RN50-quickgelu (102,007,137 parameters); plain RN50 (GELU) has the same keys
and is another model. Shapes: n = images, D = embedding width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from repro.spec import ModelSpec, Optimizer, ResNetConfig


def build_model(
    spec: ModelSpec, seed: int, initialisation: Literal["fp32", "fp16_rounded"]
) -> CLIP:
    """A CLIP model with random weights drawn under `seed`.

    `fp16_rounded` passes those initial weights through float16 that the authors' loader does
    (code: CleanCLIP pkgs/openai/model.py, convert_weights and back).
    """
    vision = spec.vision.model_dump()
    if isinstance(spec.vision, ResNetConfig):
        vision["layers"] = tuple(spec.vision.layers)  # by which open_clip tells a ResNet

    # Drawn on the CPU: the weights do not depend on the device. torch's generator is put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            spec.embed_dim,
            CLIPVisionCfg(**vision),
            CLIPTextCfg(**spec.text.model_dump()),
            quick_gelu=spec.quick_gelu,
        )
        if isinstance(spec.vision, ResNetConfig):
            model.visual.attnpool.__class__ = OneQueryPool

    if initialisation == "fp16_rounded":
        _round_to_half(model)

    # As `normalise` lays out the images, so that convolutions need not reorder either.
    model.visual.to(memory_format=torch.channels_last)
    return model


class OneQueryPool(AttentionPool2d):  # type: ignore[misc]  # open_clip has no types
    """open_clip's attention pool, which asks for the mean's place alone (as OpenAI's own code
    does).

    open_clip lets all places ask and reads the first answer: the same numbers to rounding, for 5%
    of the image tower's work.
    """

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n D"]:
        """Pooled features, not normalised."""
        # The mean stands in front.
        places = x.flatten(2).permute(2, 0, 1)  # (HW, n, C)
        places = torch.cat([places.mean(dim=0, keepdim=True), places])  # (HW + 1, n, C)
        places = places + self.positional_embedding[:, None].to(places.dtype)

        # One query, the mean; all places are keys and values.
        pooled, _ = F.multi_head_attention_forward(
            query=places[:1],
            key=places,
            value=places,
            embed_dim_to_check=places.shape[-1],
            num_heads=self.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            training=self.training,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return pooled[0]


@torch.no_grad()
def _round_to_half(model: CLIP) -> None:
    """Round convolutions, linear layers, attention and the projections; embeddings and temperature
    stay as drawn.
    """
    kinds = nn.Conv2d, nn.Linear, nn.MultiheadAttention
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    rounded = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    rounded.append(model.text_projection)
    if isinstance(model.visual, VisionTransformer):  # a ResNet's is in its attention pool
        rounded.append(model.visual.proj)
    for parameter in rounded:
        parameter.copy_(parameter.half())


def has_weight_decay(name: str, parameter: Tensor, rule: Literal["ndim", "names"]) -> bool:
    """Whether AdamW decays a parameter.

    `names` is the authors' rule (code: CleanCLIP src/main.py): no decay where the name contains bn,
    ln, bias or logit_scale. It misses the BatchNorm gain in the ResNet shortcuts
    (layerX.0.downsample.1.weight).
    """
    if rule == "names":
        return not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    # Biases, the gains of norms and the temperature have fewer dimensions.
    return parameter.ndim >= 2


def build_optimizer(
    model: CLIP, spec: Optimizer, rule: Literal["ndim", "names"]
) -> torch.optim.AdamW:
    """AdamW over two groups, with and without weight decay; each step sets the learning rate."""
    # The loop sets a rate at every step, so the 0 here is never used.
    groups: list[list[Tensor]] = [[], []]
    for name, parameter in model.named_parameters():
        groups[has_weight_decay(name, parameter, rule)].append(parameter)
    decays = 0.0, spec.weight_decay
    return torch.optim.AdamW(
        [{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True)],
        lr=0.0,
        betas=(spec.betas[0], spec.betas[1]),
        eps=spec.eps,
        fused=True,
    )
