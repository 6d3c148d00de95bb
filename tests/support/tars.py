"""Tar shards as img2dataset writes them."""

import io
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np

from repro.data.images import encode_png


def png(i: int) -> bytes:
    return encode_png(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def write_tar(
    path: Path,
    members: list[tuple[str, bytes]],
    kinds: dict[str, bytes] | None = None,
    mode: Literal["w", "w:gz"] = "w",
) -> Path:
    """Files by name and content, and links or devices by their kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (kinds or {}).items():
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/hostname"
            tar.addfile(info)
    return path


def pair(i: int, caption: str | bytes | None = None) -> list[tuple[str, bytes]]:
    """Members of row `i` as img2dataset writes them."""
    text = caption if isinstance(caption, bytes) else (caption or f"caption {i}").encode()
    return [(f"{i:05d}.jpg", png(i)), (f"{i:05d}.txt", text), (f"{i:05d}.json", b"{}")]
