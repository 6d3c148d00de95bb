"""Steps of the loop on the device "meta", which has no numbers: whoever reads one of a tensor, or
copies one to the host, in a step or between two, gets an error. On a GPU it would wait.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from repro.spec import RunSpec
from repro.train import loop
from repro.train.build import build_model
from repro.train.model import captions_by_length
from tests.support.short_run import BATCH, STEPS_PER_EPOCH, Pairs, run_spec, scheduled

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _without_what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused AdamW and autocast. Copies of losses are queued without their numbers."""
    original = torch.optim.AdamW

    def unfused(*arguments: Any, fused: bool, **options: Any) -> torch.optim.AdamW:
        return original(*arguments, **options)

    def queued(tensors: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        for value in tensors.values():
            assert value.device == META
        return lambda: {name: torch.ones(()) for name in tensors}

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(loop, "to_host", queued)


def batches(views: int) -> Iterator[list[Tensor]]:
    """Images on the device, tokens on the host, as `on_device` hands them over."""
    for step in range(2 * STEPS_PER_EPOCH):
        images, tokens = Pairs().batch(step)
        yield [images[:views].to(META), tokens[:views]]


def stepped(spec: RunSpec, folder: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> int:
    """Steps that were made, the first of the second epoch included; evaluations are left out."""
    monkeypatch.setattr(loop, "needs_cache", lambda *_: cached)
    task: Any = SimpleNamespace(spec=spec, work_dir=folder, pairs=Pairs(), validation=None)
    model = build_model(spec.model, 0, "fp32").to(META)
    run = loop.TrainingRun(task, model, META, lambda event, content: None)
    run.resume(None)
    ahead = batches(spec.num_views)
    while run.progress.step <= STEPS_PER_EPOCH:
        run.step(ahead)
    return run.progress.step


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("loss", ["mmcl", "mmcl_ssl"])
def test_no_step_waits_for_the_device(
    loss: str, parts: int, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both objectives of the paper, whole captions and captions in parts by length."""
    spec = scheduled(run_spec(optimizer_state="fresh"), norm_batch_size=BATCH // 2)
    spec = spec.model_copy(update={"loss": loss, "text_parts": parts})
    assert stepped(spec, tmp_path, monkeypatch, cached) == STEPS_PER_EPOCH + 1


@pytest.mark.parametrize(
    ("place", "stand_in"),
    [
        ("repro.train.loop.to_host", lambda tensors: lambda: tensors),
        ("repro.train.step.clamp_logit_scale", lambda model: model.logit_scale.item()),
    ],
    ids=["a loss", "within a step"],
)
def test_a_number_that_is_read_would_be_seen(
    place: str, stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, stand_in)
    with pytest.raises(RuntimeError, match=r"item\(\)"):
        stepped(run_spec(optimizer_state="fresh"), tmp_path, monkeypatch, cached=False)


def test_captions_in_parts_leave_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From pageable memory a GPU's driver may have the host wait for the copy."""
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", lambda tensor, *_, **__: tensor)
    _, tokens = Pairs().batch(0)
    parts, places = captions_by_length(tokens, 3, torch.device("cuda"), compiled=True)
    assert len(parts) == 3
    for part in parts:
        assert part.shape[1] % 8 == 0, "kernels want multiples"
    for found, expected in zip(pinned, [*parts, places], strict=True):
        assert found is expected
