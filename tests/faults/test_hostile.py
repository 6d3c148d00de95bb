"""Files made to harm: images that swell, files that pose as images, weights whose parts overlap,
programs in place of weights.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from repro.data.images import MAX_PIXELS, ImageError, open_rgb
from repro.evaluate.foreign import CheckpointError, load_foreign
from repro.profile import load_profile

SIDE = int(MAX_PIXELS**0.5)
MEMORY_CAP = 2 * 2**30
"""Bytes that reading one image may take."""


def empty_png(depth: int, kind: int, channels: int) -> bytes:
    """The largest square PNG that is allowed, all zeros: a few hundred kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer, row = zlib.compressobj(9), bytes(1 + SIDE * channels * depth // 8)
    pixels = b"".join(packer.compress(row) for _ in range(SIDE)) + packer.flush()
    palette = chunk(b"PLTE", bytes(3)) + chunk(b"tRNS", b"\0") if kind == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


MEASURE = """
import re, sys
from pathlib import Path
from repro.data.images import decode_image
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
data = Path(sys.argv[1]).read_bytes()
before = peak()
assert decode_image(data, 224).shape == (224, 224, 3)
print(1024 * (peak() - before))
"""
"""Prints bytes. Not `getrusage`, whose peak is that of the starting process."""


@pytest.mark.parametrize(
    ("depth", "kind", "channels"),
    [(16, 0, 1), (8, 6, 4), (8, 3, 1)],
    ids=["16-bit grey", "RGBA", "transparent palette"],
)
def test_the_largest_image_that_is_allowed_stays_below_the_memory_cap(
    root: Path, tmp_path: Path, depth: int, kind: int, channels: int
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(empty_png(depth, kind, channels))
    assert path.stat().st_size < 10**6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 100 * 2**20 < int(done.stdout) < MEMORY_CAP


DISGUISED = {
    "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3),
    "PDF": b"%PDF-1.7\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "ICO": b"\0\0\1\0\1\0",
    "BMP": b"BM" + bytes(60),
    "TIFF": b"II*\0\x08\0\0\0" + bytes(60),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "GIF": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\4\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    "AVIF": b"\0\0\0\x1cftypavif",
}


@pytest.mark.parametrize("data", DISGUISED.values(), ids=DISGUISED.keys())
def test_other_formats_reach_no_decoder(data: bytes) -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        open_rgb(data)


SAFETENSORS = {
    "two tensors over the same bytes": {"a": [[4], 0, 16], "b": [[4], 8, 24]},
    "an end beyond the file": {"a": [[2**30], 0, 2**32]},
    "an end before the start": {"a": [[4], 16, 0]},
    "a shape larger than its bytes": {"a": [[2**40], 0, 16]},
    "a hole between tensors": {"a": [[2], 0, 8], "b": [[2], 16, 24]},
}


@pytest.mark.parametrize("tensors", SAFETENSORS.values(), ids=SAFETENSORS.keys())
def test_safetensors_whose_offsets_lie_are_refused(
    tmp_path: Path, tensors: dict[str, list]
) -> None:
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [a, b]}
            for name, (shape, a, b) in tensors.items()
        }
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_foreign(path, "open_clip", load_profile("smoke").pretrain.model)


def with_program(path: Path, program: bytes) -> Path:
    """A file of torch.save with another program in it, under a right checksum."""
    saved = io.BytesIO()
    torch.save({"state_dict": {"x": torch.arange(7.0)}}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(
                member,
                program or content.replace(b"K\x07\x85", b"M\xff\xff\x85")
                if member.endswith("data.pkl")
                else content,
            )
    return path


PROGRAMS = {
    "a view beyond its storage": b"",
    "an item set on a list": b"\x80\x02}X\x0a\x00\x00\x00state_dict]K\x01K\x02ss.",
    "a text of an exabyte": b"\x80\x04}\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "nothing at the end": b"\x80\x02.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_that_torch_does_not_write_are_refused(tmp_path: Path, program: bytes) -> None:
    """Among them what broke older unpicklers of torch: items set on what is no dict, views larger
    than their storage.
    """
    with pytest.raises(CheckpointError):
        load_foreign(
            with_program(tmp_path / "x.pt", program),
            "cleanclip",
            load_profile("smoke").pretrain.model,
        )
