"""Image files of strangers to RGB pixels, within bounds of memory.

The geometry is torchvision's `Resize(size, BICUBIC)` and `CenterCrop(size)`, as in CLIP and the
authors' code (attack-cleanclip pkgs/openai/clip.py). `squash` resizes both sides, as the authors do
before they stamp a trigger. Limits are checked on the header, before any pixel is decompressed.
EXIF orientation is ignored, as in the authors' code.
"""

import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""An image (H, W, 3), 0..255."""
Geometry = Literal["crop", "squash"]

FORMATS = ("JPEG", "PNG", "WEBP")
"""Allowed decoders; some of Pillow's others have had memory errors."""
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64 * 10**6
MAX_ASPECT = 100
"""Longer over shorter side; a resize of the short side must not make an endless long side."""


class ImageError(ValueError):
    """An unusable image; `reason` is the name of its count in accounting.json."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_rgb(data: bytes) -> Image.Image:
    """The first frame of `data` in RGB, on white; ImageError if damaged or beyond the limits."""
    if not data:
        raise ImageError("empty")
    if len(data) > MAX_BYTES:
        raise ImageError("too_many_bytes")

    # This reads only the header. Pillow's own limits count as ours.
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_many_pixels") from None
    except Exception:  # a boundary: Pillow's readers raise a dozen types on damaged headers
        raise ImageError("not_an_image") from None

    # A small file may hold pixels that fill the memory.
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too_many_pixels")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError("too_elongated")

    try:
        image.load()
        return _to_rgb(image)
    except Exception:  # the same boundary, for damaged pixels
        raise ImageError("damaged") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    # 16 bits of grey: the high byte, where Pillow's own conversion would clip.
    if image.mode.startswith("I"):
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")

    # Pillow's own conversion shows the colour under the transparency.
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")

    return image.convert("RGB")


def decode_image(data: bytes, size: int, geometry: Geometry = "crop") -> Pixels:
    """Pixels (size, size, 3): `crop` by the short side and the centre, `squash` by both sides."""
    # Stored images have the right size already: nothing is resampled.
    image = open_rgb(data)
    if image.size == (size, size):
        return np.array(image)

    if geometry == "squash":
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))

    # Rounding down the long side and rounding the corner are torchvision's.
    short = min(image.size)
    width = int(size * image.width / short)
    height = int(size * image.height / short)
    left = round((width - size) / 2)
    top = round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + size, top + size)))


@cache
def decoder_version() -> str:
    """Version of library and code, on which the pixels of an image file depend."""
    return f"Pillow {PIL.__version__}, {bytes_hash(Path(__file__).read_bytes()).hex()}"


def encode_png(pixels: Pixels) -> bytes:
    """Lossless file of an image (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bytes_hash(data: bytes) -> bytes:
    """The first 16 bytes of SHA-256: identity of an image file or of pixels."""
    return hashlib.sha256(data).digest()[:16]
