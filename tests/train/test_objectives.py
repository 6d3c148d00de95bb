"""The objectives against their equations (paper Sec. 3, Eq. 1 and 2), written out in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.names import DEFENCES as DEFENCE_NAMES
from repro.names import LOSSES
from repro.train.defences import DEFENCES, objective_of
from repro.train.objectives import OBJECTIVES, Batch, contrastive, mmcl_loss, ssl_loss
from tests.support.short_run import defended, run_spec


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

    def within(
        image: Tensor, image_2: Tensor, text: Tensor, text_2: Tensor, scale: Tensor
    ) -> Tensor:
        return ssl_loss(torch.stack([image, image_2]), torch.stack([text, text_2]), scale)

    for loss, equation, used in (
        (mmcl_loss, equation_1, (0, 2, 4)),
        (within, equation_2, (0, 1, 2, 3, 4)),
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


def test_the_total_is_the_weighted_sum_and_leaves_out_terms_of_weight_zero() -> None:
    image, image_2, text, text_2 = features(4, 3)
    scale = torch.tensor(2.0, dtype=torch.float64)
    batch = Batch(torch.stack([image, image_2]), torch.stack([text, text_2]), scale, None, None)
    parts = contrastive(1.0, 0.5).total(batch, None)
    assert parts["loss"].item() == pytest.approx(
        mmcl_loss(image, text, scale).item() + 0.5 * parts["ssl"].item()
    )
    assert set(contrastive(0.0, 1.0).total(batch, None)) == {"loss", "ssl"}


def test_every_name_has_an_implementation_that_takes_its_settings() -> None:
    assert OBJECTIVES.keys() == LOSSES.keys()
    assert DEFENCES.keys() == DEFENCE_NAMES.keys()
    for name in DEFENCES:
        for loss in LOSSES:
            spec = defended(run_spec(), name).model_copy(update={"loss": loss})
            assert objective_of(spec).weights
            assert spec.num_views == (DEFENCE_NAMES[name].views or LOSSES[loss].views)
