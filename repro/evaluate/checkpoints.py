"""Checkpoint files of others: CleanCLIP's and the authors' (`epoch_N.pt`), and open_clip's, to plain float32 weights.

A stranger's `.pt` is a pickle, that is, a program. It is read in a process of its own by torch's `weights_only`
unpickler, which calls nothing outside a list: tensors, containers, numbers. The one thing that these files need
beyond it, NumPy scalars in the optimizer state (CleanCLIP src/scheduler.py), is bound to a stand-in that keeps nothing,
so that no NumPy code runs on a stranger's data either. What comes back is a safetensors file, whose names and shapes are
then checked against the model; there is no other way in, whatever a file asks for.

What no check can see: RN50 with GELU has the same weights by name and shape as RN50 with QuickGELU, which OpenAI,
CleanCLIP and the authors trained. The specification must say which of them a file is.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.spec import ModelSpec

Format = Literal["cleanclip", "open_clip"]

MAX_BYTES = 4 * 2**30
"""Largest file read: RN50 with its optimizer state is 1.2 GB."""
MAX_PICKLE_BYTES = 64 * 2**20
"""Largest program in it, which holds names and shapes but no weights."""
TIMEOUT_SECONDS = 600
REFUSED = 3
"""Exit status of the reading process after a refusal that it explained."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that is not used; the message names the file and what is wrong with it."""


def load_foreign(path: Path, format: Format, spec: ModelSpec) -> dict[str, Tensor]:
    """Weights of a foreign checkpoint by open_clip's names: float32 tensors, and int64 counters of BatchNorm.

    `cleanclip` is a dict with `state_dict`; `open_clip` is that, the state dict itself, or a `.safetensors` file. A
    prefix `module.` is taken off, half and double precision are converted. CheckpointError for everything else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes (allowed: at most {MAX_BYTES})")
    if format == "open_clip" and path.suffix == ".safetensors":
        weights = _load_safetensors(path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "weights.safetensors"
            command = [
                sys.executable,
                "-m",
                "repro.evaluate.checkpoints",
                str(path),
                format,
                str(target),
            ]
            try:
                reader = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise CheckpointError(
                    f"{path}: not read within {TIMEOUT_SECONDS} seconds"
                ) from None
            if reader.returncode == REFUSED:
                raise CheckpointError(f"{path}: {reader.stderr.strip()}")
            if reader.returncode:
                raise CheckpointError(
                    f"{path}: the process that read it ended with status {reader.returncode}\n{reader.stderr[-2000:]}"
                )
            weights = _load_safetensors(target)
    _check_against(weights, spec, path)
    return weights


def convert(path: Path, format: Format, spec: ModelSpec, target: Path) -> dict[str, Tensor]:
    """`load_foreign`, and the weights written to the safetensors file `target`, which appears when complete."""
    weights = load_foreign(path, format, spec)
    partial = target.with_name(f".{target.name}.partial")
    save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(target)
    return weights


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


def _check_against(weights: dict[str, Tensor], spec: ModelSpec, path: Path) -> None:
    """CheckpointError unless names, shapes and kinds are those of the model, and all values finite."""
    from repro.train.model import (
        build_model,  # not needed by the reading process, and slow to import
    )

    with torch.device("meta"):
        expected = build_model(spec, 0, "fp32").state_dict()
    problems = []
    for what, names in (
        ("missing", expected.keys() - weights.keys()),
        ("unknown", weights.keys() - expected.keys()),
    ):
        if names:
            problems.append(f"{len(names)} weights are {what}, the first {min(names)}")
    for name in sorted(expected.keys() & weights.keys()):
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"{name}: shape {tuple(found.shape)} (allowed: {tuple(wanted.shape)})")
        elif found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{name}: {found.dtype} (allowed: {wanted.dtype})")
        elif not found.isfinite().all():
            problems.append(f"{name}: not all values are finite")
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:6])
        raise CheckpointError(
            f"{path}: not a checkpoint of the specified model: {len(problems)} problem(s){shown}"
        )


class _Ignored:
    """Stands for a NumPy object in a part of the file that is not used."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# torch's list of safe globals takes pairs of object and name; NumPy moved `core` to `_core` in 2.0.
STAND_INS = [
    (_Ignored, name)
    for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


def read_weights(path: Path, format: Format) -> dict[str, Tensor]:
    """Read an untrusted `.pt` file: what the reading process does. The result is not yet known to be any model's."""
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(STAND_INS):  # type: ignore[arg-type]  # its stub knows no pairs
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a boundary: the unpickler raises whatever a damaged program makes it meet
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"refers to {found[1]}, which is code (allowed: tensors, containers, numbers)"
            ) from None
        raise CheckpointError(
            f"cannot be read as weights: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from None
    state = (
        content.get("state_dict", content if format == "open_clip" else None)
        if isinstance(content, dict)
        else None
    )
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"holds no state_dict (format {format})")
    weights = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"state_dict: {name!r} is a {type(value).__name__} (allowed: names to tensors)"
            )
        if (
            value.layout != torch.strided
            or value.device.type != "cpu"
            or value.dtype not in (*FLOATS, torch.int64)
        ):
            raise CheckpointError(
                f"state_dict: {name}: {value.dtype}, {value.layout}, {value.device} (allowed: dense floats or int64)"
            )
        weights[name.removeprefix("module.")] = value.detach()
    # A view may repeat a few stored bytes without end; it must not become that many real ones.
    if (count := sum(value.numel() for value in weights.values())) > MAX_BYTES // 4:
        raise CheckpointError(f"state_dict: {count} values (allowed: at most {MAX_BYTES // 4})")
    if len(weights) < len(state):
        raise CheckpointError("state_dict: names that differ only by the prefix module.")
    return {name: _plain(value) for name, value in weights.items()}


def _plain(value: Tensor) -> Tensor:
    """A copy with memory of its own, float32 if it is of any floating type."""
    return value.to(
        torch.float32 if value.is_floating_point() else value.dtype, copy=True
    ).contiguous()


def _check_archive(path: Path) -> None:
    """CheckpointError unless the file is a whole, uncompressed archive of torch.save with one small program."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            damaged = None if compressed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        raise CheckpointError(
            "truncated, or not a file of torch.save (torch 1.6 or later)"
        ) from None
    if compressed:
        raise CheckpointError(
            "compressed members (allowed: the plain archive that torch.save writes)"
        )
    if damaged:
        raise CheckpointError(f"damaged: checksum of {damaged}")
    if max(Counter(member.filename for member in members).values(), default=0) > 1:
        raise CheckpointError("two members of one name")
    programs = [member for member in members if member.filename.endswith(".pkl")]
    if [member.filename.partition("/")[2] for member in programs] != ["data.pkl"]:
        raise CheckpointError(
            "not a file of torch.save; TorchScript archives are programs and are not read"
        )
    if programs[0].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"data.pkl: {programs[0].file_size} bytes (allowed: at most {MAX_PICKLE_BYTES})"
        )


def _main(arguments: list[str]) -> int:
    source, format, target = arguments
    try:
        weights = read_weights(Path(source), cast(Format, format))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return REFUSED
    save_file(weights, target)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
