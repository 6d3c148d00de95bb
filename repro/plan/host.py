"""What a core takes to make a training pair ready, by the code that will do it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from repro.data.images import decode_image
from repro.data.keyed import keyed_rng
from repro.plan.assumptions import HostCost
from repro.train.views.image import auto_augment, draw_policies
from repro.train.views.text import eda
from repro.train.views.tokens import tokenize

IMAGES = 64
ROUNDS = 3
"""The best of so many."""
CAPTION = "a red harbour crane lifts a small wooden boat over the grey water near an old stone quay"


def measure_host(image_size: int) -> HostCost:
    """Seconds of one core for decoding, augmenting and text, with JPEGs of quality 95 and smooth
    content.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(image_size)
    finally:
        torch.set_num_threads(threads)


def _measure(image_size: int) -> HostCost:
    files = [_picture(number, image_size) for number in range(IMAGES)]
    pixels = np.stack([decode_image(data, image_size) for data in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    policies = draw_policies(IMAGES, keyed_rng("plan", "policies"))

    def text() -> None:
        views = [eda(CAPTION, keyed_rng("plan", number), {}) for number in range(IMAGES)]
        tokenize(views, "cut")

    # Decoding and augmenting are told by the megapixel, text by the caption.
    megapixels = image_size**2 / 1e6
    return HostCost(
        decode=_per_item(lambda: [decode_image(data, image_size) for data in files]) / megapixels,
        augment=_per_item(lambda: auto_augment(images, policies)) / megapixels,
        text=_per_item(text),
    )


def _picture(number: int, side: int) -> bytes:
    """A JPEG whose content is as smooth as a photograph's, and so as large."""
    coarse = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    out = io.BytesIO()
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


def _per_item(work: Callable[[], object]) -> float:
    work()
    # The call before the timed ones fills caches.
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times) / IMAGES
