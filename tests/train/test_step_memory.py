"""The memory of a step at the paper's size, of tensors without memory, against docs/a100.md."""

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def test_a_group_of_the_paper_trains_in_the_memory_that_the_page_asks_for(root: Path) -> None:
    page = (root / "docs" / "a100.md").read_text(encoding="utf-8")
    asked = re.search(r"(\d+) GB for a BatchNorm group of (\d+) pairs in float32", page)
    assert asked
    spec = pretrain_runs(load_profile("paper"))[0]
    pairs, side = spec.schedule.norm_batch_size, spec.model.vision.image_size
    assert pairs == int(asked[2]) and spec.num_views == 1
    with Peak() as memory, torch.device("meta"):
        model = build_model(spec.model, 0, "fp32")
        encoder, optimizer = PairEncoder(model, 1), torch.optim.AdamW(model.parameters())
        images = torch.zeros(1, pairs, 3, side, side, dtype=torch.uint8)
        tokens = torch.zeros(1, pairs, spec.model.text.context_length, dtype=torch.long)
        # The moments of the optimizer are there from the second step on.
        for _ in range(2):
            embedded, texts, log_scale = encoder(images, tokens)
            mmcl_loss(embedded[0], texts[0], log_scale.exp()).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert 0.85 < memory.peak / (int(asked[1]) * 10**9) < 1
