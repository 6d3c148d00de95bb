"""`python -m repro.check data FOLDER`: whether shards and cores of this machine keep GPUs busy.

As many processes as a training has loaders read pieces of the shards at random, as training does,
and decode images. What the system keeps in memory of the files counts, as it does in training.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from repro.check.noise import Check, Scale, known_device
from repro.data.images import decode_image
from repro.data.index import StoreError
from repro.data.memory import cores, devices
from repro.launch.places import loader_workers
from repro.plan.assumptions import DeviceName, load_assumptions
from repro.plan.forecast import AUTHORS_GPUS, Forecast, pair_seconds
from repro.profile import load_profile, pretrain_runs
from repro.sources.shards.tars import IMAGE_SUFFIXES, tar_files, tar_members

SECONDS = 10.0
"""Of reading, and of decoding."""
OPEN = 256
"""Shards that a process reads: systems let one have some thousand files open."""
SAMPLE = 64
"""Images that are decoded, again and again."""


def data(folder: Path, profile_name: str, scale: Scale) -> Iterator[Check]:
    """Reads and decodes a second, and the pairs that a pre-training by MMCL takes.

    StoreError if there are no images in shards.
    """
    shards = [path for path in tar_files(folder) if path.stat().st_size]
    images = _sample(shards)
    if not images:
        raise StoreError(f"{folder}: no images in .tar files")
    profile = load_profile(profile_name)
    size = sum(map(len, images)) // len(images)
    side = profile.data.image_size

    gpus = len(devices())
    ranks = max(1, gpus)
    loaders = ranks * max(1, loader_workers(cores() // ranks, gpu=True))
    reads = _rate(loaders, partial(_reader, shards, size))
    decodes = _rate(loaders, partial(_decoder, images, side))
    by = f"by {loaders} process(es)"
    yield Check("reads", f"{reads:,.0f} a second of {size / 1000:.0f} KB {by}")
    yield Check("decodes", f"{decodes:,.0f} a second to {side} px {by}")

    # A loader does one after the other.
    made = 1 / (1 / reads + 1 / decodes)
    count = gpus or AUTHORS_GPUS
    assumptions = load_assumptions()
    spec = pretrain_runs(profile, objective="mmcl")[0]
    tokens = Forecast(profile).caption_tokens(spec)
    here = known_device(scale)
    names: list[DeviceName] = [here] if here else ["a100", "h100"]
    for name in names:
        rates = assumptions.rates(assumptions.devices[name], spec)
        seconds = pair_seconds(spec, rates, tokens)
        most, middle, least = count / seconds
        enough = bool(made > middle)
        text = f"{made:,.0f} a second; {count} x {name} would train {least:,.0f} to {most:,.0f}"
        verdict = "enough" if enough else "too few for the middle of these"
        yield Check(f"pairs of {profile_name}", f"{text}: {verdict}", enough if here else None)


def _sample(shards: Sequence[Path]) -> list[bytes]:
    """Images from the beginnings of up to eight shards."""
    images: list[bytes] = []
    for path in shards[:: max(1, len(shards) // 8)]:
        members, _ = tar_members(path)
        with path.open("rb") as file:
            for member in members:
                if Path(member.name).suffix.lower().removeprefix(".") in IMAGE_SUFFIXES:
                    images.append(os.pread(file.fileno(), member.size, member.offset_data))
                if len(images) >= SAMPLE:
                    return images
    return images


def _rate(processes: int, work: Callable[[int], int]) -> float:
    """Calls a second of so many processes; `work(number)` returns how many it made."""
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        made = pool.map(work, range(processes), chunksize=1)
    return sum(made) / SECONDS


def _repeat(call: Callable[[], object]) -> int:
    """How often the call was made in SECONDS."""
    end = time.monotonic() + SECONDS
    made = 0
    while time.monotonic() < end:
        call()
        made += 1
    return made


def _reader(shards: Sequence[Path], size: int, number: int) -> int:
    """Pieces of an image's size, anywhere in some of the shards, each shard opened once."""
    rng = np.random.default_rng(number)
    shards = [shards[place] for place in rng.permutation(len(shards))[:OPEN]]
    files = [os.open(path, os.O_RDONLY) for path in shards]
    lengths = [path.stat().st_size for path in shards]

    def read() -> None:
        shard = rng.integers(len(shards))
        begin = int(rng.integers(lengths[shard]))
        os.pread(files[shard], size, begin)

    return _repeat(read)


def _decoder(images: Sequence[bytes], side: int, number: int) -> int:
    rng = np.random.default_rng(number)

    def decode() -> None:
        chosen = int(rng.integers(len(images)))
        decode_image(images[chosen], side)

    return _repeat(decode)
