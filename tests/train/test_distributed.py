"""Several CPU ranks against one process: the gathered loss, its gradient, and a training step."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from repro.train.objectives import Batch, contrastive
from repro.train.process import distributed
from tests.support.ranks import on_ranks

BATCH, WIDTH = 8, 6

RANK = """
import sys, torch, torch.nn.functional as F
from repro.train.process import distributed
from repro.train.objectives import Batch, contrastive
out, gather, seed = sys.argv[1], sys.argv[2], 0
distributed.start()
g = torch.Generator().manual_seed(0)
inputs = torch.randn(2, 8, 6, generator=g, dtype=torch.float64), torch.randn(2, 8, 6, generator=g, dtype=torch.float64)
weight = torch.randn(6, 6, generator=g, dtype=torch.float64).requires_grad_()
log_scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
n, r = distributed.ranks(), distributed.rank()
mine = slice(r * 8 // n, (r + 1) * 8 // n)
image, text = (distributed.gather_features(F.normalize(x[:, mine] @ weight, dim=-1)) for x in inputs)
batch = Batch(image, text, distributed.share(log_scale, gather).exp(), None, None)
loss = contrastive(1.0, 1.0).total(batch, None)["loss"]
(loss * distributed.backward_scale(gather)).backward()
for p in (weight, log_scale):
    if n > 1:
        torch.distributed.all_reduce(p.grad)
        p.grad /= n  # DDP averages
if r == 0:
    torch.save({"loss": loss.detach(), "weight": weight.grad, "scale": log_scale.grad}, out)
distributed.stop()
"""


def reference() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, BATCH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    weight = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    log_scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    image, text = (F.normalize(x @ weight, dim=-1) for x in inputs)
    batch = Batch(image, text, log_scale.exp(), None, None)
    loss = contrastive(1.0, 1.0).total(batch, None)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and log_scale.grad is not None
    return {"loss": loss.detach(), "weight": weight.grad, "scale": log_scale.grad}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_exact_gather_gives_the_single_process_gradient(ranks: int, tmp_path: Path) -> None:
    on_ranks(ranks, RANK, str(tmp_path / "out.pt"), "exact")
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    for name, expected in reference().items():
        torch.testing.assert_close(got[name], expected, rtol=1e-10, atol=1e-12)


def test_authors_gather_divides_the_encoders_gradient_by_the_ranks_but_not_the_temperatures(
    tmp_path: Path,
) -> None:
    """Own slice in the graph only, whole loss on every rank, average over ranks: d/encoder is 1/R,
    d/scale is whole.
    """
    on_ranks(2, RANK, str(tmp_path / "out.pt"), "authors")
    got, expected = torch.load(tmp_path / "out.pt", weights_only=True), reference()
    torch.testing.assert_close(got["weight"], expected["weight"] / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got["scale"], expected["scale"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got["loss"], expected["loss"], rtol=1e-12, atol=0)


def test_on_gpus_the_group_knows_its_device_and_ends_where_a_rank_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pretended machine with two GPUs: what NCCL is started with."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **given: asked.update(given, of=name)
    )
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)

    device = distributed.start(["0", "1"])
    assert asked["of"] == "nccl" and asked["device_id"] == device == torch.device("cuda", 1)
    assert timedelta(minutes=1) <= asked["timeout"] <= timedelta(minutes=30)
