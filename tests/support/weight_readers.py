"""The readers of weights: our own checkpoints, which carry hashes, and files of strangers."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from repro.evaluate.checkpoints import CheckpointError, load_foreign, read_weights
from repro.profile import load_profile
from repro.train.model import build_model, build_optimizer
from repro.train.process.checkpoint import load_checkpoint, write_checkpoint
from repro.train.process.tensor_files import model_tensors, optimizer_tensors
from tests.support.reader import Reader

SPEC = load_profile("smoke", Path(__file__).parents[2] / "specs").pretrain
MODEL = build_model(SPEC.model, 0, "fp32")
OPTIMIZER = build_optimizer(MODEL, SPEC.optimizer, "names")
for parameter in MODEL.parameters():
    parameter.grad = torch.zeros_like(parameter)
OPTIMIZER.step()  # so that it has a state
torch.set_num_threads(1)


def make_checkpoints(folder: Path) -> None:
    """Checkpoints of steps 1 and 2; a bias tells which is which."""
    for step in (1, 2):
        with torch.no_grad():
            MODEL.ln_final.bias.fill_(step)
        write_checkpoint(
            folder, step, model_tensors(MODEL), optimizer_tensors(MODEL, OPTIMIZER), {"step": step}
        )


def read_checkpoint(folder: Path) -> Any:
    """Whichever checkpoint is used, step, state and all weights belong together: nothing damaged is
    loaded.
    """
    with torch.no_grad():
        MODEL.ln_final.bias.fill_(9)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        step, state = load_checkpoint(folder, MODEL, OPTIMIZER) or (0, {})
    assert step in (1, 2) and state == {"step": step}, (step, state)
    assert (MODEL.ln_final.bias == step).all()
    assert step == 2 or "damaged" in output.getvalue(), "passed over without a word"
    return hashlib.sha256(
        b"".join(
            t.numpy().tobytes() for n, t in model_tensors(MODEL).items() if n != "ln_final.bias"
        )
    ).hexdigest()


def make_foreign(folder: Path) -> None:
    """A file as CleanCLIP writes it."""
    torch.save(
        {"epoch": 1, "state_dict": model_tensors(MODEL), "optimizer": OPTIMIZER.state_dict()},
        folder / "x.pt",
    )


def read_foreign(folder: Path) -> Any:
    """What the reading process does, here without a process; values outside the weights may change
    unseen.
    """
    return {name: value.shape for name, value in read_weights(folder / "x.pt", "cleanclip").items()}


def make_safetensors(folder: Path) -> None:
    """A file as open_clip publishes them."""
    save_file(model_tensors(MODEL), folder / "x.safetensors")


def read_safetensors(folder: Path) -> Any:
    """Names of the weights that fit the model."""
    return load_foreign(folder / "x.safetensors", "open_clip", SPEC.model).keys()


READERS = {
    "checkpoint-state": Reader(
        make_checkpoints,
        ("checkpoint-2/meta.json",),
        read_checkpoint,
        CheckpointError,
        "json",
        exact=True,
    ),
    "checkpoint-weights": Reader(
        make_checkpoints,
        ("checkpoint-2/*.safetensors",),
        read_checkpoint,
        CheckpointError,
        exact=True,
    ),
    "foreign-pt": Reader(make_foreign, ("*",), read_foreign, CheckpointError, exact=True),
    "foreign-program": Reader(make_foreign, ("*",), read_foreign, CheckpointError, "pt"),
    "foreign-safetensors": Reader(
        make_safetensors, ("*",), read_safetensors, CheckpointError, exact=True
    ),
}
