"""What the report shows of a poisoned store, in one small file: its accounting, a few pairs, a few evaluation images.

The stores are large, and whoever rebuilds the report from published results does not have them. So the poison stage
leaves `poisoned/<profile>/<dataset>-samples.json` beside the store: pairs as the model was trained on them, and evaluation
images with the triggered twin that every evaluation of `evaluation_triggers: fixed` shows it.
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
"""Poisoned pairs, and clean pairs."""


def write_samples(profile: Profile, dataset: Dataset, data_dir: Path, poisoned_dir: Path) -> None:
    """Write the samples of `poisoned_dir/<dataset>`, a poisoned store made from `data_dir`, beside it."""
    content = {
        "accounting": json.loads(
            (poisoned_dir / dataset / "accounting.json").read_text(encoding="utf-8")
        ),
        "pairs": _pairs(profile, poisoned_dir / dataset),
        "evaluation": _evaluation(profile, data_dir / "evaluation"),
    }
    write_json(poisoned_dir / f"{dataset}-samples.json", content)


def _pairs(profile: Profile, folder: Path) -> list[dict[str, Any]]:
    """The first poisoned pairs, and the first clean ones of the smallest cleaning set."""
    store = PairStore.open(folder)
    lines = map(json.loads, (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    originals = {line["row"]: line["original_caption"] for line in lines}
    smallest = min(profile.data.cleaning_sizes, key=lambda size: profile.data.cleaning_sizes[size])
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        chosen = [("poisoned", int(row)) for row in rows["poisoned"][:PAIRS]] + [
            ("clean", int(row)) for row in rows[smallest][:PAIRS]
        ]
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
    """Evaluation images spread evenly over the set, and their twins as `EvaluationSet.triggered` makes them at draw 0."""
    store = PairStore.open(folder)
    size, names = (
        profile.data.image_size,
        (folder / "classnames.txt").read_text(encoding="utf-8").splitlines(),
    )
    found = []
    for row in sample_images(len(store)):
        image = store.decode(row, size)
        base = (
            store.decode(row, size, "squash")
            if profile.switches.trigger_geometry == "squash"
            else image
        )
        generator = keyed_rng("evaluation", profile.evaluate.trigger_seed, 0, row)
        twin = stamp(profile.data.poison.trigger, profile.switches, base, generator).image
        found.append(
            {
                "row": row,
                "class": names[int(store.labels[row])],
                "image": _png(image),
                "triggered": _png(twin),
            }
        )
    return found


def _png(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(pixels)).decode()
