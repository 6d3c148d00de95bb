"""Weights, moments and training state on disk, without pickles; written while training goes on.

A checkpoint is one file `checkpoint-<step>` in the format of safetensors: the model's tensors, the
optimizer's, and the training state as JSON in the header. It appears under its name by a rename
when it is complete.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.train.process import distributed

Tensors = dict[str, Tensor]

KEEP = 2
"""Checkpoints kept per run."""
CHECKPOINT_SECONDS = 30.0
"""Least wall time between checkpoints."""
CHECKPOINT_SHARE = 0.01
"""Share of the wall time that checkpoints may take, from the first copy to the last byte on the
disk.
"""
MOST_SECONDS = 600.0
"""Most wall time between checkpoints, and so the most that a kill costs, whatever they take."""
FOLLOW_SECONDS = 60.0
"""How long a rank waits for the checkpoint that rank 0 has read: a network file system may show it
late.
"""


def model_state(model: CLIP) -> Tensors:
    """The model's weights and BatchNorm statistics themselves."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def optimizer_state(model: CLIP, optimizer: torch.optim.Optimizer) -> Tensors:
    """AdamW's state itself, by parameter name: `<name>/exp_avg`, `<name>/exp_avg_sq`,
    `<name>/step`.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.detach()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(model: CLIP, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore AdamW's moments and step counts; hyper-parameters stay those of `optimizer`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameters[name]
        # Channels-last weights want channels-last moments; `step` is a scalar on the CPU unless
        # AdamW is fused on a GPU.
        like = (
            torch.empty_like(parameter)
            if kind != "step"
            else torch.empty_like(value, device=parameter.device)
        )
        optimizer.state[parameter][kind] = like.copy_(value)


def copied(tensors: Tensors) -> Tensors:
    """Contiguous copies on the CPU."""
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous CPU tensors as a safetensors file that appears durably and whole."""
    # One name for all checkpoints of a run: a killed write leaves one such file at most.
    partial = path.with_name(f".{path.name.partition('-')[0]}.partial")
    save_file(tensors, partial, metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


class PinnedCopies:
    """Copies of a GPU's tensors in pinned memory, made beside its computing; the memory serves
    again at the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.buffers: Tensors = {}

    def copy(self, tensors: Tensors) -> tuple[Tensors, Callable[[], None]]:
        """The copies, and what waits until they are complete; the GPU's next work begins after they
        are.
        """
        # The copies begin when the step that is queued has ended.
        computing = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(computing)
        with torch.cuda.stream(self.stream):
            for name, tensor in tensors.items():
                if name not in self.buffers:
                    self.buffers[name] = torch.empty(
                        tensor.shape, dtype=tensor.dtype, pin_memory=True
                    )
                self.buffers[name].copy_(tensor, non_blocking=True)

        # The next step changes the tensors in place, so it waits for the copies; the host does not.
        computing.wait_stream(self.stream)
        return {name: self.buffers[name] for name in tensors}, self.stream.synchronize


class Saver:
    """Writes checkpoints while training goes on, one at a time; the copies of the tensors are made
    at the call. A write that failed (a full disk) raises at the next call or at the end of the
    block.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None
        self.pinned: PinnedCopies | None = None
        self.begun = time.monotonic()
        """When the last checkpoint was begun, or the run."""
        self.cost = 0.0
        """Seconds that the last checkpoint took until it was on the disk."""

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: the dearer they are the rarer, within bounds."""
        # The first one comes after CHECKPOINT_SECONDS, for nobody knows its cost yet.
        interval = max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE)
        return time.monotonic() - self.begun > min(interval, MOST_SECONDS)

    def save(
        self, step: int, model: CLIP, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Begin to write `checkpoint-<step>`, after the one before is done."""
        # Also because the pinned buffers of the one before serve again.
        self.wait()
        self.begun = time.monotonic()
        tensors = {f"model {name}": tensor for name, tensor in model_state(model).items()}
        moments = optimizer_state(model, optimizer)
        tensors |= {f"optimizer {name}": tensor for name, tensor in moments.items()}

        # On the CPU the copies are made before the call returns.
        device, complete = model.logit_scale.device, None
        if device.type == "cuda":
            self.pinned = self.pinned or PinnedCopies(device)
            copies, complete = self.pinned.copy(tensors)
        else:
            copies = copied(tensors)

        def write() -> None:
            if complete is not None:
                complete()
            write_checkpoint(self.work_dir, step, copies, state)
            self.cost = time.monotonic() - self.begun

        self.pending = self.pool.submit(write)

    def wait(self) -> None:
        """Until the checkpoint that is being written is on the disk."""
        # `result` raises what the write raised.
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.wait()
        finally:
            self.pool.shutdown()


def write_checkpoint(work_dir: Path, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write `checkpoint-<step>` and drop all but the newest KEEP; names of tensors begin with
    `model ` or `optimizer `.
    """
    save_tensors(work_dir / f"checkpoint-{step}", tensors, {"state": json.dumps(state)})
    for old in _checkpoints(work_dir)[:-KEEP]:
        old.unlink()


def load_checkpoint(
    work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore the newest checkpoint that can be read; returns its training state, None if there is
    none. Rank 0 decides which one that is; RuntimeError on a rank that cannot read the same one.
    """
    device = model.logit_scale.device
    if distributed.rank() == 0:
        # A file that the disk has torn costs the steps since the one before, never the run.
        for path in reversed(_checkpoints(work_dir)):
            try:
                state = _load(path, model, optimizer)
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                print(f"warning: {path} is damaged and passed over: {error}", flush=True)
                continue
            distributed.from_first([_step(path)], device)
            return state
        distributed.from_first([-1], device)
        return None

    # A rank's own value does not count: it gets what rank 0 sent; -1 says that there is none.
    [step] = distributed.from_first([0], device)
    return _follow(work_dir / f"checkpoint-{step}", model, optimizer) if step >= 0 else None


def _follow(path: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the checkpoint that rank 0 has read, as soon as this rank's machine shows it."""
    begun = time.monotonic()
    while True:
        try:
            return _load(path, model, optimizer)
        except (OSError, SafetensorError) as error:
            if time.monotonic() - begun > FOLLOW_SECONDS:
                raise RuntimeError(
                    f"{path}: rank 0 goes on from it, but rank {distributed.rank()} cannot: "
                    f"{error}; all ranks must see one work folder"
                ) from None
        time.sleep(1)


def _load(path: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
    parts: dict[str, Tensors] = {"model": {}, "optimizer": {}}
    for name, tensor in load_file(path).items():
        part, _, own = name.partition(" ")
        parts[part][own] = tensor

    # All has been read before anything changes.
    model.load_state_dict(parts["model"])
    load_optimizer(model, optimizer, parts["optimizer"])
    return state


def _checkpoints(work_dir: Path) -> list[Path]:
    """Checkpoints of a run, the oldest first."""
    paths = (path for path in work_dir.glob("checkpoint-*") if path.name[11:].isdecimal())
    return sorted(paths, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def remove_checkpoints(work_dir: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for path in _checkpoints(work_dir):
        path.unlink()
