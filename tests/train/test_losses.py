"""The objectives against their equations (paper Sec. 3, Eq. 1 and 2), written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.train.losses import mmcl_loss, ssl_loss, total_loss


def features(count: int, batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        F.normalize(torch.randn(batch, 16, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(count)
    ]


def equation_1(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """-1/(2B) sum_j log softmax of row j at j, once over texts and once over images; sums written
    out.
    """
    total = torch.zeros((), dtype=torch.float64)
    for j in range(len(images)):
        match = (images[j] @ texts[j] * scale).exp()
        total = total + torch.log(
            match / sum((images[j] @ texts[k] * scale).exp() for k in range(len(texts)))
        )
        total = total + torch.log(
            match / sum((images[k] @ texts[j] * scale).exp() for k in range(len(images)))
        )
    return -total / (2 * len(images))


def equation_2(
    images: Tensor, images_2: Tensor, texts: Tensor, texts_2: Tensor, scale: Tensor
) -> Tensor:
    """-1/(2B) sum_j of the clean view j against all augmented views, in both modalities."""
    total = torch.zeros((), dtype=torch.float64)
    for one, other in ((images, images_2), (texts, texts_2)):
        for j in range(len(one)):
            total = total + torch.log(
                (one[j] @ other[j] * scale).exp()
                / sum((one[j] @ other[k] * scale).exp() for k in range(len(one)))
            )
    return -total / (2 * len(images))


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value.detach().double() - reference.detach()).norm() / reference.detach().norm())


@pytest.mark.parametrize("batch", [2, 5, 32])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_the_equations(
    batch: int, scale: float, dtype: torch.dtype
) -> None:
    bound = (
        1e-6 if dtype == torch.float64 else 2e-4
    )  # float32 rounds logits of up to 100 to 4e-6 absolute
    leaves = [*features(4, batch), torch.tensor(scale, dtype=torch.float64)]
    for loss, equation, used in (
        (mmcl_loss, equation_1, (0, 2, 4)),
        (ssl_loss, equation_2, (0, 1, 2, 3, 4)),
    ):
        ours = [leaves[i].to(dtype).requires_grad_() for i in used]
        theirs = [leaves[i].clone().requires_grad_() for i in used]
        value, reference = loss(*ours), equation(*theirs)
        assert relative(value, reference) < bound
        gradients = torch.autograd.grad(value, ours)
        for gradient, expected in zip(
            gradients, torch.autograd.grad(reference, theirs), strict=True
        ):
            assert float((gradient.double() - expected).norm()) < bound * max(
                1.0, float(expected.norm())
            )


@pytest.mark.slow
def test_losses_are_the_equations_at_batch_512() -> None:
    image, image_2, text, text_2 = features(4, 512)
    scale = torch.tensor(14.3, dtype=torch.float64)
    logits = (scale * image @ text.T, scale * image @ image_2.T, scale * text @ text_2.T)
    rows = [torch.log(torch.diagonal(m.exp()) / m.exp().sum(1)) for m in logits]
    columns = torch.log(torch.diagonal(logits[0].exp()) / logits[0].exp().sum(0))
    assert relative(mmcl_loss(image, text, scale), -(rows[0].mean() + columns.mean()) / 2) < 1e-9
    assert (
        relative(
            ssl_loss(image, image_2, text, text_2, scale), -(rows[1].mean() + rows[2].mean()) / 2
        )
        < 1e-9
    )


def test_mmcl_loss_of_indistinguishable_pairs_is_log_batch_size() -> None:
    """Equal logits make the softmax uniform, so the cross-entropy of 4 pairs is ln 4."""
    same = torch.ones(4, 8) / math.sqrt(8)
    assert mmcl_loss(same, same, torch.tensor(1.0)).item() == pytest.approx(math.log(4))


def test_total_loss_is_the_weighted_sum_and_leaves_out_terms_of_weight_zero() -> None:
    image, image_2, text, text_2 = features(4, 3)
    stacked = (
        torch.stack([image, image_2]),
        torch.stack([text, text_2]),
        torch.tensor(2.0, dtype=torch.float64),
    )
    parts = total_loss({"mmcl": 1.0, "ssl": 0.5}, *stacked)
    assert parts["loss"].item() == pytest.approx(
        mmcl_loss(image, text, stacked[2]).item() + 0.5 * parts["ssl"].item()
    )
    assert set(total_loss({"mmcl": 0.0, "ssl": 1.0}, *stacked)) == {"loss", "ssl"}
