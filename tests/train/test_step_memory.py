"""The memory of a step at the paper's size, of tensors without memory, against docs/gpu.md."""

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from repro.profile import load_profile, pretrain_runs
from repro.train.build import build_model
from repro.train.model import PairEncoder
from repro.train.objectives import mmcl_loss


class Peak(TorchDispatchMode):
    """Bytes of all storages that live at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._see, result)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, storage._cdata)
            self.peak = max(self.peak, sum(self.live.values()))


@pytest.mark.nightly
def test_a_group_of_the_paper_trains_in_the_memory_that_the_page_asks_for(root: Path) -> None:
    page = (root / "docs" / "gpu.md").read_text(encoding="utf-8")
    asked = re.search(r"(\d+) GB for a BatchNorm group of (\d+) pairs in float32", page)
    assert asked
    gigabytes, pairs = map(int, asked.groups())
    spec, *_ = pretrain_runs(load_profile("paper"))
    assert spec.schedule.norm_batch_size == pairs
    assert spec.num_views == 1

    side = spec.model.vision.image_size
    length = spec.model.text.context_length
    with Peak() as memory, torch.device("meta"):
        model = build_model(spec.model, 0, "fp32")
        encoder = PairEncoder(model, norm_groups=1)
        optimizer = torch.optim.AdamW(model.parameters())
        images = torch.zeros(1, pairs, 3, side, side, dtype=torch.uint8)
        tokens = torch.zeros(1, pairs, length, dtype=torch.long)
        # The moments of the optimizer are there from the second step on.
        for _ in range(2):
            embedded, texts, log_scale = encoder(images, tokens)
            loss = mmcl_loss(embedded[0], texts[0], log_scale.exp())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert 0.85 < memory.peak / (gigabytes * 10**9) < 1
