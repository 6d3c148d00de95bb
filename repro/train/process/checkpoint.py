"""Weights, moments and training state on disk, without pickles; written while training goes on.

A checkpoint is one file `checkpoint-<step>` in the format of safetensors: the model's tensors, the
optimizer's, and the training state as JSON in the header. It appears under its name by a rename
when it is complete.
"""

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.train.process import distributed
from repro.train.process.device import to_host
from repro.train.shares import CHECKPOINT_SHARE, KEEP_CHECKPOINTS

CHECKPOINT_SECONDS = 30.0
"""Least wall time between checkpoints."""
MOST_SECONDS = 600.0
"""Most wall time between checkpoints, and so the most that a kill costs, whatever they take."""
FOLLOW_SECONDS = 60.0
"""How long a rank waits for the file that rank 0 has read: a network may show it late."""


def optimizer_state(model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state itself: `<name>/exp_avg`, `<name>/exp_avg_sq`, `<name>/step`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.detach()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(
    model: CLIP, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore AdamW's moments and step counts; hyper-parameters stay those of `optimizer`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameters[name]
        # Channels-last weights want channels-last moments; `step` is a scalar on the CPU unless
        # AdamW is fused on a GPU.
        like = parameter if kind != "step" else value.to(parameter.device)
        optimizer.state[parameter][kind] = torch.empty_like(like).copy_(value)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file that appears durably and whole."""
    # One name for all checkpoints of a run: a killed write leaves one such file at most.
    partial = path.with_name(f".{path.name.partition('-')[0]}.partial")
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, partial, metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


class Saver:
    """Writes checkpoints while training goes on, one at a time; the copies of the tensors are made
    at the call. A write that failed (a full disk) raises at the next call or at the end of the
    block.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None
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
        """Begin to write `checkpoint-<step>` after the one before is done; keep the newest."""
        self.wait()
        self.begun = time.monotonic()
        parts = {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}
        copies = to_host(
            {f"{part} {name}": value for part in parts for name, value in parts[part].items()}
        )

        def write() -> None:
            path, text = self.work_dir / f"checkpoint-{step}", json.dumps(state)
            save_tensors(path, copies(), {"state": text})
            for old in _checkpoints(self.work_dir)[:-KEEP_CHECKPOINTS]:
                old.unlink()
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


def load_checkpoint(
    work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore the newest checkpoint that can be read; returns its training state, None if there is
    none. Rank 0 decides which one that is; RuntimeError on a rank that cannot read the same one.
    """
    state, step = None, -1  # of no checkpoint
    for path in reversed(_checkpoints(work_dir) if distributed.rank() == 0 else []):
        # A file that the disk has torn costs the steps since the one before, never the run.
        try:
            state, step = _load(path, model, optimizer), _step(path)
            break
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            print(f"warning: {path} is damaged and passed over: {error}", flush=True)

    step = distributed.from_first(step, model.logit_scale.device)
    if distributed.rank() == 0 or step < 0:
        return state

    # As soon as this rank's machine shows the file.
    path, begun = work_dir / f"checkpoint-{step}", time.monotonic()
    while not path.exists() and time.monotonic() - begun < FOLLOW_SECONDS:
        time.sleep(1)
    try:
        return _load(path, model, optimizer)
    except (OSError, SafetensorError) as error:
        raise RuntimeError(
            f"{path}: rank 0 goes on from it, but rank {distributed.rank()} cannot: {error}; all "
            "ranks must see one work folder"
        ) from None


def _load(path: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, tensor in load_file(path).items():
        part, _, own = name.partition(" ")
        parts[part][own] = tensor

    # All has been read before anything changes.
    model.load_state_dict(parts["model"])
    load_optimizer(model, optimizer, parts["optimizer"])
    return state


def _checkpoints(work_dir: Path) -> list[Path]:
    """Checkpoints of a run, the oldest first."""
    return sorted(work_dir.glob("checkpoint-*"), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def remove_checkpoints(work_dir: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for path in _checkpoints(work_dir):
        path.unlink()
