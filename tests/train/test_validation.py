"""Validation loss: the mean of Equation 1 over global batches, in parts that fit a rank and over
several ranks.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.train.model import build_model, normalise
from repro.train.process import distributed
from repro.train.validation import validation_loss
from tests.support.ranks import on_ranks
from tests.support.short_run import run_spec

BATCH, PART = 6, 2
RANK = """
import sys
from pathlib import Path
from repro.train.process import distributed
from tests.train.test_validation import measured
distributed.start()
loss, sizes = measured()
(Path(sys.argv[1]) / str(distributed.rank())).write_text(f"{loss!r} {max(sizes)} {len(sizes)}")
distributed.stop()
"""


def stored() -> tuple[Tensor, Tensor]:
    """Twelve pairs."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2 * BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(1, 999, (2 * BATCH, 8), generator=generator)


def measured() -> tuple[float, list[int]]:
    """The loss, and how many pairs were encoded at a time on this rank."""
    images, tokens = stored()
    sizes = []

    def plain(positions: slice) -> tuple[Tensor, Tensor]:
        sizes.append(len(images[positions]))
        return images[positions], tokens[positions]

    spec = run_spec()
    schedule = spec.schedule.model_copy(
        update={"global_batch_size": BATCH, "norm_batch_size": PART}
    )
    pairs = SimpleNamespace(
        spec=spec.model_copy(update={"schedule": schedule}), steps_per_epoch=2, plain=plain
    )
    model = build_model(spec.model, 0, "fp32").train()
    loss = validation_loss(model, pairs)  # type: ignore[arg-type]
    assert model.training
    return loss, sizes


def test_validation_loss_is_the_mean_of_equation_one_over_global_batches() -> None:
    """Though no more pairs are encoded at a time than a group of BatchNorm has."""
    loss, sizes = measured()
    assert sizes == [PART] * 6

    model = build_model(run_spec().model, 0, "fp32").eval()
    images, tokens = stored()
    expected = []
    for part in (slice(0, BATCH), slice(BATCH, 2 * BATCH)):
        image = F.normalize(model.visual(normalise(images[part])), dim=-1)
        text = model.encode_text(F.pad(tokens[part], (0, 69)), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        match = torch.arange(BATCH)
        cross = F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)
        expected.append(cross.item() / 2)
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_ranks_share_the_work_and_get_one_loss(tmp_path: Path) -> None:
    """Three pairs of each global batch a rank: two parts, the second of one pair."""
    assert distributed.ranks() == 1
    on_ranks(2, RANK, str(tmp_path))
    first, second = ((tmp_path / str(rank)).read_text().split() for rank in (0, 1))
    assert first == second
    assert first[1:] == [str(PART), "4"]
    assert float(first[0]) == pytest.approx(measured()[0], rel=1e-6)
