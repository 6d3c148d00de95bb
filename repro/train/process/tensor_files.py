"""Weights and moments as safetensors files, written tensor by tensor while other threads compute.

`safetensors.save` builds the whole file in memory and holds the interpreter's lock all the while,
for seconds at the size of the paper's model; here each tensor is hashed and written from where it
lies, and both let go of the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors.torch import load
from torch import Tensor

Tensors = dict[str, Tensor]

DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the format, in the order in which safetensors lays tensors out: the widest first."""


def model_tensors(model: CLIP) -> Tensors:
    """Copies of the model's weights and BatchNorm statistics, contiguous on the CPU."""
    return copied(model_state(model))


def optimizer_tensors(model: CLIP, optimizer: torch.optim.Optimizer) -> Tensors:
    """Copies of AdamW's state, contiguous on the CPU; names as in `optimizer_state`."""
    return copied(optimizer_state(model, optimizer))


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


def copied(tensors: Tensors) -> Tensors:
    """Contiguous copies on the CPU."""
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


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


def load_model(model: CLIP, path: Path) -> None:
    """Load weights that `save_tensors` wrote."""
    model.load_state_dict(load(path.read_bytes()))


def load_optimizer(model: CLIP, optimizer: torch.optim.Optimizer, content: bytes) -> None:
    """Restore AdamW's moments and step counts; hyper-parameters stay those of `optimizer`."""
    parameters = dict(model.named_parameters())
    for key, value in load(content).items():
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


def save_tensors(path: Path, tensors: Tensors) -> str:
    """Write contiguous CPU tensors as a safetensors file, durably and whole; returns its hash."""
    # Byte for byte as `safetensors.save` would write it: by width of type, then by name.
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    names = sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name))

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    hashed = hashlib.sha256()

    with partial.open("wb") as file:
        header = _header({name: tensors[name] for name in names})
        hashed.update(header)
        file.write(header)

        # As bytes, for numpy has no bfloat16.
        for name in names:
            content = tensors[name].reshape(-1).view(torch.uint8).numpy().data
            hashed.update(content)
            file.write(content)

        file.flush()
        os.fsync(file.fileno())

    partial.replace(path)
    return hashed.hexdigest()


def _header(tensors: Tensors) -> bytes:
    """Length of the description (8 bytes, little-endian), then the description in JSON, padded to a
    multiple of 8.
    """
    # Offsets count from the end of the description.
    described, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        described[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }

    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
