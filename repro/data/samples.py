"""What the report shows of a poisoned store, in one small file: its accounting, a few pairs, a few
evaluation images.

The stores are large, and whoever rebuilds the report from published results does not have them. So
the poison stage leaves `poisoned/<profile>/<dataset>-samples.json` beside the store: pairs as the
model was trained on them, and evaluation images with the triggered twin that every evaluation of
`evaluation_triggers: fixed` shows it.
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
from repro.data.shards import PairStore
from repro.data.triggers import stamp
from repro.files import sealed
from repro.ledger import sample_images
from repro.spec import Dataset, Profile

PAIRS = 4
"""Poisoned pairs, and clean pairs."""


def write_samples(profile: Profile, dataset: Dataset, data_dir: Path, poisoned_dir: Path) -> None:
    """Write the samples of `poisoned_dir/<dataset>`, made from `data_dir`, beside it."""
    accounting = (poisoned_dir / dataset / "accounting.json").read_text(encoding="utf-8")
    content = {
        "accounting": json.loads(accounting),
        "pairs": _pairs(profile, poisoned_dir / dataset),
        "evaluation": _evaluation(profile, data_dir / "evaluation"),
        "near_copies": _near_copies(data_dir / "evaluation"),
    }
    (poisoned_dir / f"{dataset}-samples.json").write_bytes(sealed(content))


def _pairs(profile: Profile, folder: Path) -> list[dict[str, Any]]:
    """The first poisoned pairs, and the first clean ones of the smallest cleaning set."""
    # The store has the new captions; what they were before stands in the manifest alone.
    store = PairStore.open(folder)
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    originals = {entry["row"]: entry["original_caption"] for entry in entries}

    sizes = profile.data.cleaning_sizes
    smallest = min(sizes, key=lambda size: sizes[size])
    with np.load(folder / "rows.npz", allow_pickle=False) as rows:
        chosen = [("poisoned", row) for row in rows["poisoned"][:PAIRS].tolist()]
        chosen += [("clean", row) for row in rows[smallest][:PAIRS].tolist()]

    found = []
    for kind, row in chosen:
        pair = {
            "kind": kind,
            "row": row,
            "caption": store.captions[row],
            "original_caption": originals.get(row),
            "image": _png(store.decode(row, profile.data.image_size)),
        }
        found.append(pair)

    return found


def _evaluation(profile: Profile, folder: Path) -> list[dict[str, Any]]:
    """Evaluation images spread evenly over the set, and their twins.

    The twins are those that `EvaluationSet.triggered` makes at draw 0.
    """
    store = PairStore.open(folder)
    names = (folder / "classnames.txt").read_text(encoding="utf-8").splitlines()
    size, trigger = profile.data.image_size, profile.data.poison.trigger

    found = []
    for row in sample_images(len(store)):
        # The authors squash the image before they stamp it; the clean one is cropped either way.
        image = base = store.decode(row, size)
        if profile.switches.trigger_geometry == "squash":
            base = store.decode(row, size, "squash")

        # As `EvaluationSet` keys its draws.
        rng = keyed_rng("evaluation", profile.evaluate.trigger_seed, 0, row)
        twin = stamp(trigger, profile.switches, base, rng).image
        sample = {
            "row": row,
            "class": names[int(store.labels[row])],
            "image": _png(image),
            "triggered": _png(twin),
        }
        found.append(sample)

    return found


def _near_copies(folder: Path) -> Any:
    """What the data source found and left out, where it looks for near-copies
    (repro/sources/icons).
    """
    path = folder / "near-copies.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _png(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(pixels)).decode()
