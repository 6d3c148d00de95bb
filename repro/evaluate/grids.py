"""The warping field that a WaNet model was trained with, from a file.

WaNet's trigger is one random field, drawn when the model was poisoned; under another field its
backdoor does not show. The authors keep theirs beside their code as `noise_grid_*.pt`, a tensor
(1, H, W, 2) (code: attack-cleanclip backdoor/utils.py). A `.pt` is a program and is not read here;
docs/triggers.md says how to convert one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from repro.spec import SpecError

MAX_BYTES = 64 * 2**20
"""Largest file read: a field of 224 pixels is 0.4 MB in float32."""

LARGEST_MEAN = 10.0
"""Largest mean absolute value of a field; WaNet scales it to 1, and pixel coordinates would be
beyond.
"""


def load_grid(path: Path, size: int) -> NDArray[np.float64]:
    """How far each pixel moves down and to the right, (2, H, W), as `wanet` takes it.

    The file is a `.npy`, or a `.safetensors` with one tensor, of shape (H, W, 2) or (1, H, W, 2)
    for images of H = W = `size` pixels: displacement to the right first, then down, in units in
    which the mean absolute value is about 1, before the strength is multiplied in. SpecError for
    anything else.
    """
    # A file that cannot be meant is refused before it is read.
    if path.suffix not in (".npy", ".safetensors"):
        raise SpecError(
            f"--grid: {path}"
            " (allowed: a .npy or .safetensors file; docs/triggers.md converts a .pt)"
        )
    if not path.is_file():
        raise SpecError(f"--grid: {path}: no such file")
    if (found := path.stat().st_size) > MAX_BYTES:
        raise SpecError(f"--grid: {path}: {found} bytes (allowed: at most {MAX_BYTES})")

    try:
        content = _read(path)
    except (ValueError, OSError, EOFError, SafetensorError) as error:
        raise SpecError(f"--grid: {path}: cannot be read: {error}") from None

    # The leading 1 is the batch of grid_sample.
    field = content[0] if content.ndim == 4 and len(content) == 1 else content
    if field.shape != (size, size, 2):
        raise SpecError(
            f"--grid: {path}: shape {content.shape}"
            f" (allowed: ({size}, {size}, 2) or with a leading 1)"
        )
    if not np.issubdtype(field.dtype, np.floating) or not np.isfinite(field).all():
        raise SpecError(f"--grid: {path}: {field.dtype} (allowed: finite floating-point numbers)")

    # A field that is not scaled would warp by whole images, or not at all.
    mean = float(np.abs(field.astype(np.float64)).mean())
    if not 0 < mean <= LARGEST_MEAN:
        raise SpecError(
            f"--grid: {path}: mean absolute value {mean:.4g} (allowed: above 0 and at most "
            f"{LARGEST_MEAN:g}; WaNet scales its field to 1)"
        )
    # From right and down to down and right, the order of rows and columns.
    return np.stack([field[..., 1], field[..., 0]]).astype(np.float64)


def _read(path: Path) -> NDArray[np.float64]:
    if path.suffix == ".npy":
        array: NDArray[np.float64] = np.load(path, allow_pickle=False)
        return array

    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors (allowed: one)")
    return next(iter(tensors.values()))
