"""Checkpoints: atomic, hashed, without pickles; the newest intact one is used.

A checkpoint is a folder `checkpoint-<step>` with `model.safetensors`, `optimizer.safetensors` and `meta.json`, which
carries the hashes of the two and the training state. It appears under its name by a rename when complete; torn or
altered ones fail their hash and are passed over, loudly.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import load, save

from repro.files import replace_file
from repro.spec import digest

Tensors = dict[str, torch.Tensor]
KEEP = 2
"""Checkpoints kept per run."""


def model_tensors(model: CLIP) -> Tensors:
    """Copies of the model's weights and BatchNorm statistics, contiguous on the CPU."""
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }


def load_model(model: CLIP, path: Path) -> None:
    """Load weights that `save_tensors` wrote."""
    model.load_state_dict(load(path.read_bytes()))


def optimizer_tensors(model: CLIP, optimizer: torch.optim.Optimizer) -> Tensors:
    """AdamW's state by parameter name: `<name>/exp_avg`, `<name>/exp_avg_sq`, `<name>/step`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.detach().cpu().contiguous().clone()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(model: CLIP, optimizer: torch.optim.Optimizer, content: bytes) -> None:
    """Restore AdamW's moments and step counts; hyper-parameters stay those of `optimizer`."""
    parameters = dict(model.named_parameters())
    for key, value in load(content).items():
        name, _, kind = key.rpartition("/")
        parameter = parameters[name]
        # channels-last weights want channels-last moments; `step` is a scalar on the CPU unless AdamW is fused on a GPU
        like = (
            torch.empty_like(parameter)
            if kind != "step"
            else torch.empty_like(value, device=parameter.device)
        )
        optimizer.state[parameter][kind] = like.copy_(value)


def save_tensors(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file durably and whole; returns its SHA-256."""
    content = save(tensors)
    replace_file(path, content)
    return hashlib.sha256(content).hexdigest()


class Saver:
    """Writes checkpoints while training goes on, one at a time; the copies of the tensors are made at the call.

    A write that failed (a full disk) raises at the next call or at the end of the block.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def save(
        self, step: int, model: CLIP, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Begin to write `checkpoint-<step>`, after the one before is done."""
        self.wait()
        tensors = model_tensors(model), optimizer_tensors(model, optimizer)
        self.pending = self.pool.submit(write_checkpoint, self.work_dir, step, *tensors, state)

    def wait(self) -> None:
        """Until the checkpoint that is being written is on the disk."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            self.pool.shutdown()


def write_checkpoint(
    work_dir: Path, step: int, model: Tensors, optimizer: Tensors, state: dict[str, Any]
) -> None:
    """Write `checkpoint-<step>` and drop all but the newest KEEP."""
    partial = work_dir / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    meta: dict[str, Any] = {"step": step, "state": state}
    meta["model"] = save_tensors(partial / "model.safetensors", model)
    meta["optimizer"] = save_tensors(partial / "optimizer.safetensors", optimizer)
    (partial / "meta.json").write_text(json.dumps({**meta, "meta": digest(meta)}), encoding="utf-8")
    target = work_dir / f"checkpoint-{step}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in _checkpoints(work_dir)[:-KEEP]:
        shutil.rmtree(old)


def load_checkpoint(
    work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest intact checkpoint; returns its step and training state, None if there is none."""
    for folder in reversed(_checkpoints(work_dir)):
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if digest({name: value for name, value in meta.items() if name != "meta"}) != meta[
                "meta"
            ] or meta["step"] != _step(folder):
                raise ValueError("meta.json does not have its own hash")
            files = {
                name: (folder / f"{name}.safetensors").read_bytes()
                for name in ("model", "optimizer")
            }
            for name, content in files.items():
                if hashlib.sha256(content).hexdigest() != meta[name]:
                    raise ValueError(f"{name}.safetensors does not have the hash in meta.json")
            model.load_state_dict(load(files["model"]))
            load_optimizer(model, optimizer, files["optimizer"])
            return int(meta["step"]), meta["state"]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            SafetensorError,
        ) as error:
            print(f"warning: {folder} is damaged and passed over: {error}", flush=True)
    return None


def _checkpoints(work_dir: Path) -> list[Path]:
    found = (
        path
        for path in work_dir.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    )
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def remove_checkpoints(work_dir: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for folder in _checkpoints(work_dir):
        shutil.rmtree(folder)
