"""Samples of a poisoned store for the report, in one small file: pairs, evaluation images, counts.

Whoever rebuilds the report from published results does not have the large stores. The stage
`poison` therefore leaves `poisoned/<profile>/<dataset>-samples.json` beside the store.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import encode_png
from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore, write_json
from repro.data.triggers import stamp
from repro.ledger import sample_images
from repro.spec import Dataset, Profile

PAIRS = 4
"""Number of poisoned pairs, and of clean pairs."""


def write_samples(profile: Profile, dataset: Dataset, data_dir: Path, poisoned_dir: Path) -> None:
    """Write the samples of `poisoned_dir/<dataset>`, made from `data_dir`, beside it."""
    accounting = (poisoned_dir / dataset / "accounting.json").read_text(encoding="utf-8")
    # Written by the source of icons, which looks for near-copies (repro/sources/icons).
    copies = data_dir / "evaluation" / "near-copies.json"
    content = {
        "accounting": json.loads(accounting),
        "pairs": _pairs(profile, poisoned_dir / dataset),
        "evaluation": _evaluation(profile, data_dir / "evaluation"),
        "near_copies": json.loads(copies.read_text(encoding="utf-8")) if copies.is_file() else [],
    }
    write_json(poisoned_dir / f"{dataset}-samples.json", content)


def _pairs(profile: Profile, folder: Path) -> list[dict[str, Any]]:
    """The first poisoned pairs, and the first clean ones of the smallest cleaning set."""
    store = PairStore.open(folder)
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    originals = {entry["row"]: entry["original_caption"] for entry in map(json.loads, lines)}
    sizes = profile.data.cleaning_sizes
    smallest = min(sizes, key=lambda size: sizes[size])
    chosen = [("poisoned", row) for row in store.rows("poisoned")[:PAIRS].tolist()]
    chosen += [("clean", row) for row in store.rows(smallest)[:PAIRS].tolist()]
    return [
        {
            "kind": kind,
            "row": row,
            "caption": store.captions[row],
            "original_caption": originals.get(row),
            "image": _png(store.decode(row, profile.data.image_size)),
        }
        for kind, row in chosen
    ]


def _evaluation(profile: Profile, folder: Path) -> list[dict[str, Any]]:
    """Evaluation images at even distances in the set, and their triggered twins at draw 0."""
    store = PairStore.open(folder)
    names = (folder / "classnames.txt").read_text(encoding="utf-8").splitlines()
    size, trigger = profile.data.image_size, profile.data.poison.trigger
    geometry = profile.switches.trigger_geometry
    samples = []
    for row in sample_images(len(store)):
        # Keyed as in `EvaluationSet`. The authors squash an image before they stamp it.
        rng = keyed_rng("evaluation", profile.evaluate.trigger_seed, 0, row)
        twin = stamp(trigger, profile.switches, store.decode(row, size, geometry), rng).image
        samples.append(
            {
                "row": row,
                "class": names[int(store.labels[row])],
                "image": _png(store.decode(row, size)),
                "triggered": _png(twin),
            }
        )
    return samples


def _png(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(pixels)).decode()
