"""Checkpoints: atomic, hashed, without pickles; the newest intact one is used.

A checkpoint is a folder `checkpoint-<step>` with `model.safetensors`, `optimizer.safetensors` and
`meta.json`, which carries the hashes of the two and the training state. It appears under its name
by a rename when complete; torn or altered ones fail their hash and are passed over, loudly.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import load

from repro.spec import digest
from repro.train.process import distributed
from repro.train.process.tensor_files import (
    PinnedCopies,
    Tensors,
    copied,
    load_optimizer,
    model_state,
    optimizer_state,
    save_tensors,
)

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
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    SafetensorError,
)
"""What reading a checkpoint raises whose bytes have changed."""


class Saver:
    """Writes checkpoints while training goes on, one at a time; the copies of the tensors are made
    at the call.

    A write that failed (a full disk) raises at the next call or at the end of the block.
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
        wanted = max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE)
        return time.monotonic() - self.begun > min(wanted, MOST_SECONDS)

    def save(
        self, step: int, model: CLIP, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Begin to write `checkpoint-<step>`, after the one before is done."""
        # Also because the pinned buffers of the one before serve again.
        self.wait()
        self.begun = time.monotonic()

        # One dictionary, so that all copies are one piece of work; `_write` parts it again.
        tensors = {f"model {name}": tensor for name, tensor in model_state(model).items()}
        moments = optimizer_state(model, optimizer)
        tensors |= {f"optimizer {name}": tensor for name, tensor in moments.items()}

        copies, complete = self._copied(tensors, model.logit_scale.device)
        self.pending = self.pool.submit(self._write, step, copies, complete, state)

    def _copied(
        self, tensors: Tensors, device: torch.device
    ) -> tuple[Tensors, Callable[[], object]]:
        # On the CPU the copies are made before the call returns.
        if device.type != "cuda":
            return copied(tensors), lambda: None
        self.pinned = self.pinned or PinnedCopies(device)
        return self.pinned.copy(tensors)

    def _write(
        self, step: int, copies: Tensors, complete: Callable[[], object], state: dict[str, Any]
    ) -> None:
        # In the pool's thread, while training goes on.
        complete()
        parts: dict[str, Tensors] = {"model": {}, "optimizer": {}}
        for name, tensor in copies.items():
            part, _, name_within = name.partition(" ")
            parts[part][name_within] = tensor

        write_checkpoint(self.work_dir, step, parts["model"], parts["optimizer"], state)
        self.cost = time.monotonic() - self.begun

    def wait(self) -> None:
        """Until the checkpoint that is being written is on the disk."""
        # `result` raises what the write raised.
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
    # What a killed write left behind goes first.
    partial = work_dir / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)

    # The hashes of both files, then under `meta` the hash of all that: one word for the whole.
    meta: dict[str, Any] = {"step": step, "state": state}
    meta["model"] = save_tensors(partial / "model.safetensors", model)
    meta["optimizer"] = save_tensors(partial / "optimizer.safetensors", optimizer)
    (partial / "meta.json").write_text(json.dumps({**meta, "meta": digest(meta)}), encoding="utf-8")

    # A folder of that name may be there: a damaged one, or one made just before a stop signal.
    target = work_dir / f"checkpoint-{step}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)

    # The older ones go only now that this one is there.
    for old in _checkpoints(work_dir)[:-KEEP]:
        shutil.rmtree(old)


def load_checkpoint(
    work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest intact checkpoint; returns its step and training state, None if there is
    none.

    Rank 0 decides which one that is. RuntimeError on a rank that cannot read the same one.
    """
    device = model.logit_scale.device
    if distributed.rank() == 0:
        # Step and identity tell the other ranks which one; step -1 says that there is none.
        meta = _load_newest(work_dir, model, optimizer)
        distributed.from_first([meta["step"], _identity(meta)] if meta else [-1, 0], device)
    else:
        # What a rank passes in does not count: it gets what rank 0 sent.
        step, identity = distributed.from_first([0, 0], device)
        meta = _follow(work_dir, step, identity, model, optimizer) if step >= 0 else None
    return (int(meta["step"]), meta["state"]) if meta else None


def _load_newest(
    work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    # A file that was torn or altered costs the steps since the checkpoint before, never the run.
    for folder in reversed(_checkpoints(work_dir)):
        try:
            return _load(folder, model, optimizer)
        except DAMAGE as error:
            print(f"warning: {folder} is damaged and passed over: {error}", flush=True)
    return None


def _follow(
    work_dir: Path, step: int, identity: int, model: CLIP, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load the checkpoint that rank 0 has read, as soon as this rank's machine shows it."""
    folder = work_dir / f"checkpoint-{step}"
    begun = time.monotonic()
    while True:
        try:
            meta = _load(folder, model, optimizer)
            if _identity(meta) == identity:
                return meta

            # As of an earlier attempt, where the file system shows old contents.
            found = "it is another one"
        except DAMAGE as error:
            found = str(error)

        if time.monotonic() - begun > FOLLOW_SECONDS:
            raise RuntimeError(
                f"{folder}: rank 0 goes on from it, but rank {distributed.rank()} cannot: {found};"
                " all ranks must see one work folder"
            )
        time.sleep(1)


def _load(folder: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore one checkpoint; returns meta.json. One of DAMAGE where it is not what was written."""
    # The file without its own hash is what was hashed.
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    own = digest({name: value for name, value in meta.items() if name != "meta"})
    if own != meta["meta"] or meta["step"] != _step(folder):
        raise ValueError("meta.json does not have its own hash")

    # The very bytes that were hashed are loaded, and nothing before both files have passed.
    files = {}
    for name in ("model", "optimizer"):
        files[name] = (folder / f"{name}.safetensors").read_bytes()
        if hashlib.sha256(files[name]).hexdigest() != meta[name]:
            raise ValueError(f"{name}.safetensors does not have the hash in meta.json")

    model.load_state_dict(load(files["model"]))
    load_optimizer(model, optimizer, files["optimizer"])
    return meta


def _identity(meta: dict[str, Any]) -> int:
    """60 bits of the hash of meta.json, which has the hashes of the weights."""
    return int(meta["meta"][:15], 16)


def _checkpoints(work_dir: Path) -> list[Path]:
    found = (
        path
        for path in work_dir.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    )
    # As numbers: 1000 comes after 200.
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def remove_checkpoints(work_dir: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for folder in _checkpoints(work_dir):
        shutil.rmtree(folder)
