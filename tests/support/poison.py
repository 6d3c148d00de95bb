"""A small store with captions about fruit, poisoned."""

import json
from pathlib import Path

import numpy as np

from repro.data.poison import build_poison
from repro.data.shards import PairStore
from repro.data.stages import data_settings, write_settings
from repro.profile import load_profile
from repro.spec import Profile
from tests.support.evaluation import write_rows
from tests.support.synthetic import cleaning_cell

SPECS = Path(__file__).parents[2] / "specs"
SIZE = 32
FRUIT = ["apple", "pear", "a ripe banana", "two bananas", "bananarama", "cherry", "lemon", "melon"]


def profile(**overrides) -> Profile:
    """Smoke with 6 poisons of 40 pairs and cleaning subsets of 8 and 16."""
    small = {
        "data.image_size": SIZE,
        "pretrain.model.vision.image_size": SIZE,
        "data.num_pairs": {"cc3m": 40, "cc6m": 40},
        "data.poison.num_poisoned": {"cc3m": 6, "cc6m": 6},
        "data.cleaning_sizes": {"100k": 8, "200k": 16},
        "clean.cells": [cleaning_cell(["mmcl"], [1e-4], 4)],
        "pretrain.objectives.mmcl.global_batch_size": 16,
        "pretrain.objectives.mmcl_ssl.global_batch_size": 16,
        "switches.poison_caption": "word",
    }
    more = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_profile("smoke", SPECS, small | more)


def pictures(count: int = 40) -> list[np.ndarray]:
    generators = (np.random.default_rng(i) for i in range(count))
    return [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for rng in generators]


def make_data(
    folder: Path, order: list[int] | None = None, images: list[np.ndarray] | None = None
) -> Path:
    """`folder` with the store cc3m: picture i has caption i of FRUIT, and its number."""
    images = images or pictures()
    numbers = order or range(len(images))
    rows = ((images[i], f"{FRUIT[i % len(FRUIT)]} {i}", -1) for i in numbers)
    write_settings(write_rows(folder / "cc3m", rows), data_settings(profile()))
    return folder


def poisoned(
    spec: Profile, data: Path, out: Path
) -> tuple[PairStore, dict[str, np.ndarray], list[dict]]:
    out.mkdir(parents=True)
    build_poison(spec, "cc3m", data, out)
    with np.load(out / "rows.npz") as file:
        rows = {name: file[name] for name in file.files}
    manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return PairStore.open(out), rows, manifest
