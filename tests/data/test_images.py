"""Files from strangers: images decoded within bounds or refused; weights and programs that harm."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from repro.data import images
from repro.data.images import MAX_PIXELS, ImageError, decode_image, encode_png, open_rgb
from repro.evaluate.foreign import CheckpointError, load_foreign
from repro.profile import load_profile


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    length = struct.pack(">I", len(data))
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return length + name + data + checksum


def png(width: int, height: int, depth: int, kind: int, rest: bytes) -> bytes:
    """A PNG that claims a size and a kind of pixels; `rest` are its chunks after the header."""
    signature = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return signature + chunk(b"IHDR", header) + rest


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""
    few = zlib.compress(b"\0" * 100)
    return png(width, height, depth=8, kind=2, rest=chunk(b"IDAT", few))


def random_image(seed: int, height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


NOISE = random_image(0, 40, 60)
LONG_TEXT = PngImagePlugin.PngInfo()
LONG_TEXT.add_text("comment", "x" * 80_000_000, zip=True)

REFUSED = {
    "zero bytes": (b"", "empty"),
    "one byte": (b"\xff", "not_an_image"),
    "a web page named .jpg": (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
    "a cut JPEG": (saved(NOISE, "JPEG")[:900], "damaged"),
    "a cut PNG": (saved(NOISE, "PNG")[:900], "damaged"),
    "70 million pixels": (png_header(10_000, 7_000), "too_many_pixels"),
    "100 million pixels": (png_header(10_000, 10_000), "too_many_pixels"),
    "4 billion pixels": (png_header(65_535, 65_535), "too_many_pixels"),
    "one row of 20,000": (saved(Image.new("RGB", (20_000, 1)), "PNG"), "too_elongated"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_unusable_files_are_refused_with_a_reason_and_little_memory(data, reason):
    tracemalloc.start()
    with pytest.raises(ImageError) as caught:
        open_rgb(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == reason
    assert peak < 20e6


def test_a_png_with_a_huge_compressed_text_is_refused():
    with pytest.raises(ImageError):
        open_rgb(saved(NOISE, "PNG", pnginfo=LONG_TEXT))


def test_a_file_beyond_the_byte_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match="too_many_bytes"):
        open_rgb(saved(NOISE, "PNG"))


def test_cmyk_becomes_rgb():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode_image(saved(red, "JPEG", quality=100), 16)
    difference = decoded.astype(int) - [255, 0, 0]
    assert np.abs(difference).max() <= 3


def test_transparency_becomes_white_in_every_mode():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    palette = Image.new("P", (4, 4), 0)
    files = [
        saved(clear, "PNG"),
        saved(clear, "WEBP", lossless=True),
        saved(palette, "PNG", transparency=0),
    ]
    for data in files:
        assert (decode_image(data, 4) == 255).all()


def test_sixteen_bit_grey_keeps_its_high_byte():
    values = np.full((4, 4), 0x80FF, dtype=np.uint16)
    grey = saved(Image.fromarray(values), "PNG")
    assert (decode_image(grey, 4) == 0x80).all()


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert open_rgb(saved(NOISE, "JPEG", exif=exif)).size == NOISE.size


def test_an_image_of_the_right_size_comes_back_bit_for_bit():
    square = np.asarray(random_image(1, 32, 32))
    decoded = decode_image(encode_png(square), 32)
    assert np.array_equal(decoded, square)


@pytest.mark.parametrize(
    "size",
    [
        (60, 40),
        (40, 61),
        (33, 100),
        (101, 33),
        (50, 50),
    ],
)
def test_the_crop_is_torchvisions(size):
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    image = random_image(2, *size)
    resized = Resize(24, InterpolationMode.BICUBIC)(image)
    expected = CenterCrop(24)(resized)
    decoded = decode_image(saved(image, "PNG"), 24)
    assert np.array_equal(decoded, np.asarray(expected))


SIDE = int(MAX_PIXELS**0.5)
MEMORY_CAP = 2 * 2**30
"""Bytes that reading one image may take."""


def empty_png(depth: int, kind: int, channels: int) -> bytes:
    """The largest square PNG that is allowed, all zeros: a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + SIDE * channels * depth // 8)
    packed = [packer.compress(row) for _ in range(SIDE)]
    packed.append(packer.flush())
    chunks = []
    if kind == 3:
        chunks.append(chunk(b"PLTE", bytes(3)))
        chunks.append(chunk(b"tRNS", b"\0"))
    chunks.append(chunk(b"IDAT", b"".join(packed)))
    chunks.append(chunk(b"IEND", b""))
    return png(SIDE, SIDE, depth, kind, rest=b"".join(chunks))


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
    [
        pytest.param(16, 0, 1, id="16-bit grey"),
        pytest.param(8, 6, 4, id="RGBA"),
        pytest.param(8, 3, 1, id="transparent palette"),
    ],
)
def test_the_largest_image_that_is_allowed_stays_below_the_memory_cap(
    root: Path, tmp_path: Path, depth: int, kind: int, channels: int
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(empty_png(depth, kind, channels))
    assert path.stat().st_size < 10**6
    command = [sys.executable, "-c", MEASURE, str(path)]
    taken = int(subprocess.check_output(command, cwd=root))
    assert 100 * 2**20 < taken < MEMORY_CAP


DISGUISED = {
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3),
    "PDF": b"%PDF-1.7\n",
    "BMP": b"BM" + bytes(60),
    "TIFF": b"II*\0\x08\0\0\0" + bytes(60),
    "GIF": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\4\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
}


@pytest.mark.parametrize("data", DISGUISED.values(), ids=DISGUISED.keys())
def test_other_formats_reach_no_decoder(data: bytes) -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        open_rgb(data)


def with_program(path: Path, program: bytes) -> Path:
    """A file of torch.save with another program in it, under a right checksum."""
    saved = io.BytesIO()
    torch.save({"state_dict": {"x": torch.arange(7.0)}}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            if member.endswith("data.pkl"):
                content = program or content.replace(b"K\x07\x85", b"M\xff\xff\x85")
            target.writestr(member, content)
    return path


PROGRAMS = {
    "a view beyond its storage": b"",
    "an item set on a list": b"\x80\x02}X\x0a\x00\x00\x00state_dict]K\x01K\x02ss.",
    "a text of an exabyte": b"\x80\x04}\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "nothing at the end": b"\x80\x02.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_that_torch_does_not_write_are_refused(tmp_path: Path, program: bytes) -> None:
    """Among them what broke older unpicklers: items set on no dict, views beyond storage."""
    path = with_program(tmp_path / "x.pt", program)
    model = load_profile("smoke").pretrain.model
    with pytest.raises(CheckpointError):
        load_foreign(path, "cleanclip", model)
