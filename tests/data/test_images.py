"""Image files from strangers: decoded to RGB within bounds, or refused with a reason."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from repro.data import images
from repro.data.images import ImageError, decode_image, encode_png, open_rgb


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
LONG_TEXT = PngImagePlugin.PngInfo()
LONG_TEXT.add_text("comment", "x" * 80_000_000, zip=True)

REFUSED = {
    "zero bytes": (b"", "empty"),
    "one byte": (b"\xff", "not_an_image"),
    "a web page named .jpg": (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
    "a GIF": (saved(NOISE, "GIF"), "not_an_image"),
    "a PDF": (saved(NOISE, "PDF"), "not_an_image"),
    "a TIFF": (saved(NOISE, "TIFF"), "not_an_image"),
    "a cut JPEG": (saved(NOISE, "JPEG")[:900], "damaged"),
    "a cut PNG": (saved(NOISE, "PNG")[:900], "damaged"),
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
    red = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(decode_image(red, 16).astype(int) - [255, 0, 0]).max() <= 3


def test_transparency_becomes_white_in_every_mode():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    palette = Image.new("P", (4, 4), 0)
    for data in (
        saved(clear, "PNG"),
        saved(clear, "WEBP", lossless=True),
        saved(palette, "PNG", transparency=0),
    ):
        assert (decode_image(data, 4) == 255).all()


def test_sixteen_bit_grey_keeps_its_high_byte():
    grey = Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.uint16))
    assert (decode_image(saved(grey, "PNG"), 4) == 0x80).all()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (decode_image(data, 4) == [255, 0, 0]).all()


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert open_rgb(saved(NOISE, "JPEG", exif=exif)).size == NOISE.size


def test_one_pixel_fills_the_square():
    assert (decode_image(saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), 5) == [9, 8, 7]).all()


def test_an_image_of_the_right_size_comes_back_bit_for_bit():
    square = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(encode_png(square), 32), square)


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (33, 100), (101, 33), (50, 50)])
def test_the_crop_is_torchvisions(size):
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = CenterCrop(24)(Resize(24, InterpolationMode.BICUBIC)(image))
    assert np.array_equal(decode_image(saved(image, "PNG"), 24), np.asarray(expected))


def test_squash_resizes_both_sides():
    expected = NOISE.resize((24, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(decode_image(saved(NOISE, "PNG"), 24, "squash"), np.asarray(expected))
