"""The paper's data from the user's disk: pairs in webdataset shards, ImageNet-1K validation.

Pairs stay where they are: the stores of the datasets name the user's shards. Evaluation images are
copied into shards. accounting.json counts every row: listed = not_obtained + dropped + duplicate +
surplus + used.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import ImageError, open_rgb
from repro.data.index import StoreError, key_values
from repro.data.keyed import keyed_subset
from repro.data.shards import ShardWriter, write_json, write_store
from repro.profile import load_classnames
from repro.sources.packages import WORDNET_CREDIT
from repro.sources.shards.imagenet import validation_images
from repro.sources.shards.tars import Accounting, ShardIndex, index_shards
from repro.spec import Dataset, Profile, ShardSource

LOST = "lost_with_shards"
"""Reason for rows that were downloaded, but lie in shards that are missing, cut or no tars."""


def build_external(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises StoreError if a folder holds no usable row, if more than `max_drop_fraction` of its rows
    are unusable or lost, if two datasets that should differ hold the same pairs, or if a class has
    more or fewer than `images_per_class` evaluation images.
    """
    source = profile.data.source
    assert isinstance(source, ShardSource)
    names = load_classnames(profile)
    accounts: dict[str, Any] = {"evaluation": _build_evaluation(source, names, out)}

    keys: dict[Dataset, NDArray[np.void]] = {}
    for dataset, count in profile.data.num_pairs.items():
        folder = Path(source.pairs[dataset])
        index = index_shards(folder)
        account = row_accounting(folder, index.accounting)
        _check_drops(folder, account, source.max_drop_fraction)

        rows = select(index, count, source.selection[dataset])
        decoded = index.accounting.decoded - index.accounting.duplicate
        account |= {"surplus": decoded - len(rows), "used": len(rows), "wanted": count}
        if len(rows) < count:
            print(
                f"repro: {dataset}: {len(rows)} of {count} pairs, because {folder} holds no more; "
                "accounting.json counts the others by reason",
                file=sys.stderr,
            )
        accounts[dataset] = account
        keys[dataset] = np.sort(key_values(index.keys[rows]))

        (out / dataset).mkdir()
        shards = [
            dataclasses.replace(shard, path=os.path.relpath(folder / shard.path, out / dataset))
            for shard in index.shards
        ]
        write_store(out / dataset, index.take(rows), shards)

    for one, other in itertools.combinations(keys, 2):
        wanted = [(profile.data.num_pairs[name], source.pairs[name]) for name in (one, other)]
        if wanted[0] != wanted[1] and np.array_equal(keys[one], keys[other]):
            raise StoreError(
                f"data.num_pairs: {one} and {other} hold the same {len(keys[one])} pairs "
                f"(specified: {wanted[0][0]} of {wanted[0][1]} and {wanted[1][0]} of "
                f"{wanted[1][1]}); bring more shards, or specify fewer pairs"
            )

    used = {name: account["used"] for name, account in accounts.items()}
    write_json(out / "accounting.json", {"sources": accounts, "used": used})
    changes = "none; read from the user's disk"
    write_json(
        out / "attribution.json", {"changes": changes, "images": [], "text": [WORDNET_CREDIT]}
    )


def select(index: ShardIndex, count: int, selection: str) -> NDArray[np.int64]:
    """Ascending positions of at most `count` distinct pairs: `keyed` by hash, or the `first`."""
    rows = index.distinct()
    if selection == "first":
        return rows[:count]
    # One order for all datasets: if cc3m and cc6m are one folder, the smaller lies in the larger.
    keys = [key.tobytes() for key in index.keys[rows]]
    chosen: NDArray[np.int64] = rows[keyed_subset(keys, count, "slot")]
    return chosen


def row_accounting(folder: Path, shards: Accounting) -> dict[str, Any]:
    """Number of rows by fate, up to the choice of pairs.

    img2dataset counts failed downloads in `*_stats.json` beside each shard. Other mirrors have no
    such file, and their rows count from the shards on.
    """
    not_obtained: Counter[str] = Counter()
    for path in folder.rglob("*_stats.json"):
        stats = json.loads(path.read_text(encoding="utf-8"))
        for reason in ("failed_to_download", "failed_to_resize"):
            not_obtained[reason] += stats.get(reason, 0)
    not_obtained[LOST] = shards.lost
    return {
        "listed": not_obtained.total() + shards.listed,
        "not_obtained": dict(+not_obtained),  # without zeros
        "obtained": shards.obtained,
        "decoded": shards.decoded,
        "dropped": dict(shards.dropped),
        "duplicate": shards.duplicate,
        "shards": dict(shards.shards),
    }


def _check_drops(folder: Path, account: dict[str, Any], allowed: float) -> None:
    """StoreError if too many rows are unusable, or lost with their shards."""
    reasons = Counter(account["dropped"])
    reasons[LOST] = account["not_obtained"].get(LOST, 0)
    rows = reasons.total() + account["decoded"]
    if reasons.total() > allowed * rows:
        faults = {name: number for name, number in account["shards"].items() if name != "read"}
        raise StoreError(
            f"{folder}: {reasons.total()} of {rows} rows cannot be used ({dict(+reasons)}; "
            f"allowed: {allowed:.2%}); faults of shards: {faults or 'none'}"
        )


def _build_evaluation(source: ShardSource, names: list[str], out: Path) -> dict[str, Any]:
    (out / "evaluation").mkdir()
    writer = ShardWriter(out / "evaluation")
    dropped: Counter[str] = Counter()
    per_class: Counter[int] = Counter()
    folder = Path(source.evaluation)
    images = validation_images(folder, len(names))
    for image in images:
        # Decoded once here, so that no evaluation meets a damaged image.
        data = image.read()
        try:
            open_rgb(data)
        except ImageError as error:
            dropped[error.reason] += 1
            continue
        # Suffix by content: names of files may be wrong.
        png, webp = data.startswith(b"\x89PNG"), data.startswith(b"RIFF")
        suffix = "png" if png else "webp" if webp else "jpg"
        writer.add(data, suffix, names[image.label], image.label)
        per_class[image.label] += 1

    index, shards = writer.close()
    # Accuracy is a mean over images: a missing image would give its class less weight.
    wrong = [label for label in range(len(names)) if per_class[label] != source.images_per_class]
    if wrong:
        raise StoreError(
            f"{folder}: {len(index)} usable images of {len(images)} (allowed: "
            f"{source.images_per_class * len(names)}); {len(wrong)} classes have more or fewer "
            f"than {source.images_per_class}, the first {names[wrong[0]]!r} with "
            f"{per_class[wrong[0]]}; not used: {dict(dropped) or 'none'}"
        )
    write_store(out / "evaluation", index, shards)
    return {
        "listed": len(images),
        "not_obtained": {},
        "obtained": len(images),
        "decoded": len(index),
        "dropped": dict(dropped),
        "duplicate": 0,
        "surplus": 0,
        "used": len(index),
        "repeated_images": len(index) - len({row.image_hash for row in writer.rows}),
        "images_per_class": source.images_per_class,
    }
