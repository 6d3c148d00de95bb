"""Checkpoint files of others to plain float32 weights: the authors', CleanCLIP's and open_clip's.

A stranger's `.pt` is a pickle, that is, a program. It is read in a process of its own by torch's
`weights_only` unpickler, which calls nothing outside a list: tensors, containers, numbers. The one
thing that these files need beyond it, NumPy scalars in the optimizer state (CleanCLIP
src/scheduler.py), is bound to a stand-in that keeps nothing, so that no NumPy code runs on a
stranger's data either. What comes back is a safetensors file, whose names and shapes are then
checked against the model; there is no other way in, whatever a file asks for.

What no check can see: RN50 with GELU has the same weights by name and shape as RN50 with QuickGELU,
which OpenAI, CleanCLIP and the authors trained. The specification must say which of them a file is.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

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

MAX_PROBLEMS = 6
"""Differences from the model that a message lists."""

MAX_PREFIX = 3
"""Parts of a name that may be a wrapper's."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that is not used; the message names the file and what is wrong with it."""


def load_foreign(path: Path, format: Format, spec: ModelSpec) -> dict[str, Tensor]:
    """Weights of a foreign checkpoint by open_clip's names: float32, and int64 counters of
    BatchNorm.

    `cleanclip` is a dict with `state_dict`; `open_clip` is that, the state dict itself, or a
    `.safetensors` file. A prefix `module.` is taken off, half and double precision are converted.
    CheckpointError for all else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes (allowed: at most {MAX_BYTES})")

    # Only a pickle is a program; safetensors are read here.
    if format == "open_clip" and path.suffix == ".safetensors":
        weights = _load_safetensors(path)
    else:
        weights = _load_pickled(path, format)

    _check_against(weights, spec, path)
    return weights


def convert(path: Path, format: Format, spec: ModelSpec, target: Path) -> dict[str, Tensor]:
    """`load_foreign`, and write the weights to the safetensors file `target`, which appears
    when complete.
    """
    weights = load_foreign(path, format, spec)

    # Renamed when it is whole: a file of this name is always complete.
    partial = target.with_name(f".{target.name}.partial")
    save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(target)
    return weights


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


def _load_pickled(path: Path, format: Format) -> dict[str, Tensor]:
    """Let a process of its own turn the file into a safetensors file, and read that."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "weights.safetensors"
        module = "repro.evaluate.checkpoints"
        command = [sys.executable, "-m", module, str(path), format, str(target)]

        try:
            reader = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"{path}: not read within {TIMEOUT_SECONDS} seconds") from None

        if reader.returncode == REFUSED:
            raise CheckpointError(f"{path}: {reader.stderr.strip()}")
        if reader.returncode:
            raise CheckpointError(
                f"{path}: the process that read it ended with status {reader.returncode}\n"
                f"{reader.stderr[-2000:]}"
            )
        return _load_safetensors(target)


def _check_against(weights: dict[str, Tensor], spec: ModelSpec, path: Path) -> None:
    """CheckpointError unless names, shapes and kinds are those of the model, and all values
    finite.
    """
    # Not needed by the reading process, and slow to import.
    from repro.train.model import build_model

    # Names and shapes alone: on this device a model has no memory.
    with torch.device("meta"):
        expected = build_model(spec, 0, "fp32").state_dict()
    problems = []

    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    for what, names in (("missing", missing), ("unknown", unknown)):
        if names:
            problems.append(f"{len(names)} weights are {what}, the first {min(names)}")
    problems += _renamed(missing, unknown)

    # Of what is there under its name: shape, kind and values.
    for name in sorted(expected.keys() & weights.keys()):
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"{name}: shape {tuple(found.shape)} (allowed: {tuple(wanted.shape)})")
        elif found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{name}: {found.dtype} (allowed: {wanted.dtype})")
        elif not found.isfinite().all():
            problems.append(f"{name}: not all values are finite")

    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:MAX_PROBLEMS])
        raise CheckpointError(
            f"{path}: not a checkpoint of the specified model: {len(problems)} problem(s){shown}"
        )


def _renamed(missing: set[str], unknown: set[str]) -> list[str]:
    """What explains names that do not fit, if one prefix does: a wrapper's, or that of a part."""
    for name in sorted(unknown):
        for depth in range(1, MAX_PREFIX + 1):
            *heads, rest = name.split(".", depth)
            if len(heads) == depth and rest in missing:
                prefix = ".".join(heads) + "."
                count = sum(prefix + each in unknown for each in missing)
                return [f"{count} of the missing are there with the prefix {prefix!r}: take it off"]
    return []


class _Ignored:
    """Stands for a NumPy object in a part of the file that is not used."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# torch's list of safe globals takes pairs of object and name; NumPy moved `core` to `_core` in 2.0.
STAND_INS = [
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
    (_Ignored, "numpy.dtype"),
]


def read_weights(path: Path, format: Format) -> dict[str, Tensor]:
    """Read an untrusted `.pt` file: what the reading process does.

    The result is not yet known to be any model's. CheckpointError says what is wrong with the file.
    """
    _check_archive(path)
    content = _unpickle(path)

    # open_clip's files may be the state itself, without a dict about it.
    bare = content if format == "open_clip" else None
    state = content.get("state_dict", bare) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"holds no state_dict (format {format})")

    # `module.` is the wrapper's that CleanCLIP trains with.
    weights = {}
    for name, value in state.items():
        _check_entry(name, value)
        weights[name.removeprefix("module.")] = value.detach()

    # A view may repeat a few stored bytes without end; it must not become that many real ones.
    count = sum(value.numel() for value in weights.values())
    if count > MAX_BYTES // 4:
        raise CheckpointError(f"state_dict: {count} values (allowed: at most {MAX_BYTES // 4})")
    if len(weights) < len(state):
        raise CheckpointError("state_dict: names that differ only by the prefix module.")

    return {name: _plain(value) for name, value in weights.items()}


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(STAND_INS):  # type: ignore[arg-type]  # its stub knows no pairs
            return torch.load(path, map_location="cpu", weights_only=True)
    # A boundary: the unpickler raises whatever a damaged program makes it meet.
    except Exception as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"refers to {found[1]}, which is code (allowed: tensors, containers, numbers)"
            ) from None
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(
            f"cannot be read as weights: {type(error).__name__}: {first_line}"
        ) from None


def _check_entry(name: Any, value: Any) -> None:
    """CheckpointError unless an entry of the state dict is a plain tensor with a name."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise CheckpointError(
            f"state_dict: {name!r} is a {type(value).__name__} (allowed: names to tensors)"
        )
    dense = value.layout == torch.strided and value.device.type == "cpu"
    if not dense or value.dtype not in (*FLOATS, torch.int64):
        raise CheckpointError(
            f"state_dict: {name}: {value.dtype}, {value.layout}, {value.device} "
            "(allowed: dense floats or int64)"
        )


def _plain(value: Tensor) -> Tensor:
    """A copy with memory of its own, float32 if it is of any floating type."""
    kind = torch.float32 if value.is_floating_point() else value.dtype
    return value.to(kind, copy=True).contiguous()


def _check_archive(path: Path) -> None:
    """CheckpointError unless the file is a whole, uncompressed archive of torch.save with one
    small program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            damaged = None if compressed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        raise CheckpointError(
            "truncated, or not a file of torch.save (torch 1.6 or later)"
        ) from None

    # A small file could otherwise unpack to any size.
    if compressed:
        raise CheckpointError(
            "compressed members (allowed: the plain archive that torch.save writes)"
        )
    if damaged:
        raise CheckpointError(f"damaged: checksum of {damaged}")

    # zipfile and torch might read different ones of two.
    names = Counter(member.filename for member in members)
    if max(names.values(), default=0) > 1:
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
