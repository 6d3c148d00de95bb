"""Damage to files: the bytes, text trees and arrays of a valid file with something wrong in them.

Seeded, so that a finding repeats.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
import zlib
from typing import Any

import numpy as np
from ruamel.yaml import YAML

WORDS = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
    b"\x00" * 7 + b"\x80",
    b"\xff" * 7 + b"\x7f",
)
"""Integers at the ends of their ranges."""
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    -(2**63),
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    -0.0,
    "",
    "\0",
    "../../x",
    "a" * 10_000,
    "\ud800",
    "\u202e<script>\\input{x}",
    [],
    {},
    [[]],
    {"": None},
    "1",
    0.5,
    ["x"] * 50,
    "2026-13-45",
    "=cmd()",
    b"\xff",
)
"""Values that a careless reader trips over."""


def mutate(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Damaged `data`; `kind` is the form that damage may respect: `bytes`, `json`, `jsonl`, `yaml`,
    `npz`, `gz` or `pt`.
    """
    if kind in _FORMS and rng.random() < 0.6:
        return _FORMS[kind](data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data = _damage(data, rng)
    return data


def _damage(data: bytes, rng: random.Random) -> bytes:
    buffer = bytearray(data)
    place = rng.randrange(len(buffer) + 1)
    match rng.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + rng.randbytes(rng.choice((1, 4, 600))) + data[place:]
        case 2:
            return data[:place] + data[place + rng.choice((1, 4, 512)) :]
        case 3:
            return data[:place] + data[max(0, place - 600) :]
        case 4:
            word = rng.choice(WORDS)
            buffer[place : place + len(word)] = word
        case 5:
            buffer[place : place + 512] = bytes(len(buffer[place : place + 512]))
        case _ if buffer:
            buffer[place % len(buffer)] ^= 1 << rng.randrange(8)
    return bytes(buffer)


def _json(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        depth = rng.choice((100, 5_000, 200_000))
        return b"[" * depth if rng.random() < 0.5 else b'{"a":' * depth
    holder = {"root": json.loads(data)}
    nodes: list[tuple[Any, Any]] = [(holder, "root")]
    for parent, key in nodes:
        child = parent[key]
        nodes += [
            (child, inner)
            for inner in (
                child
                if isinstance(child, dict)
                else range(len(child))
                if isinstance(child, list)
                else ()
            )
        ]
    for _ in range(rng.choice((1, 1, 3))):
        parent, key = rng.choice(nodes)
        if isinstance(parent, dict) and rng.random() < 0.3:
            parent[rng.choice(("", "extra", "__class__", "\u202e"))] = parent.pop(key, None)
        elif isinstance(parent, list) and key < len(parent) and rng.random() < 0.3:
            parent.extend(parent[key : key + 1] * rng.choice((1, 100)))
        else:
            parent[key] = rng.choice([value for value in HOSTILE if not isinstance(value, bytes)])
    return json.dumps(holder.get("root")).encode()


def _yaml(data: bytes, rng: random.Random) -> bytes:
    return _json(json.dumps(YAML(typ="safe", pure=True).load(data)).encode(), rng)  # JSON is YAML


def _jsonl(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines.insert(place, lines[rng.randrange(len(lines))])
        case 1:
            lines[place] = rng.choice((b"", b"null", b"[]", b"{}", b"\xff", b"0"))
        case _:
            lines[place] = _json(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def _npz(data: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name].copy()
    match rng.randrange(9):
        case 0:
            del arrays[name]
        case 1 if array.size:
            limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
            array.flat[rng.randrange(array.size)] = (
                rng.choice((limits.min, limits.max, 1)) if limits else 1
            )
            arrays[name] = array
        case 2:
            arrays[name] = array[: rng.randrange(len(array) + 1)]
        case 3:
            arrays[name] = np.concatenate([array, array])
        case 4:
            arrays[name] = array.astype(
                rng.choice(
                    ("f8", "i1", "U8", "c16", ">i8", "M8[s]", "?", "V4")
                    if array.ndim == 1
                    else ("f8", "U8")
                )
            )
        case 5:
            arrays[name] = (
                array[..., None] if rng.random() < 0.5 else array.reshape(-1)[:1].reshape(())
            )
        case 6:
            arrays[name] = np.array([{"a": 1}, None], dtype=object)
        case 7:
            arrays["extra"] = np.arange(3)
        case 8:
            return _claims_more(data, f"{name}.npy")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def _claims_more(data: bytes, name: str) -> bytes:
    """One array's header says that 2**50 values follow: whoever believes it allocates a petabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (2**50,)}
    )
    return _rezipped(data, {name: header.getvalue() + b"\1" * 64})


def _gz(data: bytes, rng: random.Random) -> bytes:
    """Damage to the lines of a compressed file, or so many lines that they fill the memory."""
    if rng.random() < 0.03:
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return b"".join(packer.compress(b"\n" * 2**22) for _ in range(2**9)) + packer.flush()
    return gzip.compress(_jsonl(gzip.decompress(data), rng), mtime=0)


def _pt(data: bytes, rng: random.Random) -> bytes:
    """Damage to the program in a file of torch.save, under a right checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        program = archive.read(name)
    return _rezipped(data, {name: _damage(program, rng)})


def _rezipped(data: bytes, changed: dict[str, bytes]) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        for member in source.namelist():
            target.writestr(member, changed.get(member, source.read(member)))
    return result.getvalue()


_FORMS = {"json": _json, "jsonl": _jsonl, "yaml": _yaml, "npz": _npz, "gz": _gz, "pt": _pt}
