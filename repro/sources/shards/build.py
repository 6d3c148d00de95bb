"""The data set of the paper from the user's disk: pairs in webdataset shards, ImageNet-1K
validation as zero-shot task.

Pairs stay where they are, the stores of the slots are overlays over the user's shards; evaluation
images are copied into shards of our own, whatever form they come in. Every row is accounted for in
accounting.json: listed = not_obtained + dropped + duplicate + surplus + used, the first three of
them by reason or by number.
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
from repro.data.index import StoreError
from repro.data.keyed import keyed_subset
from repro.data.shards import ShardWriter, write_json, write_store
from repro.profile import load_classnames
from repro.sources.packages import WORDNET_CREDIT
from repro.sources.shards.imagenet import is_official, validation_images
from repro.sources.shards.tars import Accounting, ShardIndex, index_shards
from repro.spec import Dataset, Profile, ShardSource

LOST = "lost_with_shards"
"""The word for rows that were obtained, and lie in shards that are lost, cut or no tars."""


def build_external(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises StoreError if a folder holds nothing usable, if more than `max_drop_fraction` of its rows
    cannot be used or are lost with their shards, if two slots that should differ hold the same
    pairs, or if a class has not `images_per_class` evaluation images.
    """
    source = profile.data.source
    assert isinstance(source, ShardSource)
    names = load_classnames(profile)
    sources: dict[str, Any] = {"evaluation": _build_evaluation(source, names, out)}

    keys: dict[Dataset, NDArray[Any]] = {}
    for slot, count in profile.data.num_pairs.items():
        folder = Path(source.pairs[slot])
        shards = index_shards(folder)
        account = row_accounting(folder, shards.accounting, count)
        _check_drops(folder, account, source.max_drop_fraction)

        rows = select(shards, count, source.selection[slot])
        account |= {
            "surplus": shards.accounting.decoded - shards.accounting.duplicate - len(rows),
            "used": len(rows),
        }
        _tell_shortage(slot, folder, account)
        sources[slot] = account

        # A 16-byte key as one value, so that whole pairs are sorted and compared.
        keys[slot] = np.sort(np.ascontiguousarray(shards.keys[rows]).view("V16").ravel())
        (out / slot).mkdir()
        # Overlay: the store names the user's shards by relative path and copies nothing.
        here = [
            dataclasses.replace(shard, path=os.path.relpath(folder / shard.path, out / slot))
            for shard in shards.shards
        ]
        write_store(out / slot, shards.take(rows), here)

    _check_slots(profile, source, keys)
    used = {name: account["used"] for name, account in sources.items()}
    write_json(out / "accounting.json", {"sources": sources, "used": used})

    attribution = {
        "changes": "none; read from the user's disk",
        "images": [],
        "text": [WORDNET_CREDIT],
    }
    write_json(out / "attribution.json", attribution)


def select(index: ShardIndex, count: int, selection: str) -> NDArray[np.int64]:
    """Positions of at most `count` distinct pairs, ascending: by keyed hash, or the `first` of the
    list.
    """
    distinct = index.distinct()
    if selection == "first":
        return np.sort(distinct[np.argsort(index.order[distinct], kind="stable")[:count]])
    # One order for all slots: where cc3m and cc6m are one folder, the smaller is nested in the
    # larger.
    rows: NDArray[np.int64] = distinct[
        keyed_subset([key.tobytes() for key in index.keys[distinct]], count, "slot")
    ]
    return rows


def row_accounting(folder: Path, shards: Accounting, wanted: int) -> dict[str, Any]:
    """What became of every row up to the choice of pairs.

    From the URL list where `folder` was filled by `python -m repro fetch`, which knows how many
    rows it obtained; else rows of lost shards are estimated by those of the others.
    """
    path = folder / "accounting.json"
    fetched = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    not_obtained = Counter(fetched.get("refused", {})) + Counter(fetched.get("failed", {}))

    lost = shards.lost
    if "obtained" in fetched:
        lost = max(0, fetched["obtained"] - shards.listed)
    if lost:
        not_obtained[LOST] = lost

    return {
        "listed": not_obtained.total() + shards.listed,
        "not_obtained": dict(not_obtained),
        "obtained": shards.obtained,
        "decoded": shards.decoded,
        "dropped": dict(shards.dropped),
        "duplicate": shards.duplicate,
        "surplus": 0,
        "used": 0,
        "shards": dict(shards.shards),
        "wanted": wanted,
    }


def _build_evaluation(source: ShardSource, names: list[str], out: Path) -> dict[str, Any]:
    folder = Path(source.evaluation)
    (out / "evaluation").mkdir()
    writer = ShardWriter(out / "evaluation")
    dropped: Counter[str] = Counter()
    per_class: Counter[int] = Counter()
    images = validation_images(folder, len(names))
    for image in images:
        # Decoded once here, so that an evaluation meets no damaged image.
        try:
            data = image.read()
            open_rgb(data)
        except FileNotFoundError:
            dropped["missing"] += 1
            continue
        except ImageError as error:
            dropped[error.reason] += 1
            continue
        per_class[image.label] += 1
        writer.add(data, _suffix(data), names[image.label], image.label)

    # Accuracy is a mean over images: one missing would give its class less weight.
    index, shards = writer.close()
    wrong = [label for label in range(len(names)) if per_class[label] != source.images_per_class]
    if wrong:
        raise StoreError(
            f"{folder}: {len(index)} usable images of {len(images)} (allowed: "
            f"{source.images_per_class * len(names)}); "
            f"{len(wrong)} classes have not {source.images_per_class}, the first "
            f"{names[wrong[0]]!r} with {per_class[wrong[0]]}; "
            f"not used: {dict(dropped) or 'none'}"
        )

    write_store(out / "evaluation", index, shards)
    return {
        "listed": len(images),
        "not_obtained": {},
        "obtained": len(images) - dropped["missing"],
        "decoded": len(index),
        "dropped": dict(dropped),
        "duplicate": 0,
        "surplus": 0,
        "used": len(index),
        "repeated_images": len(index) - len({row.image_hash for row in writer.rows}),
        "images_per_class": source.images_per_class,
        "official_archive": is_official(folder),
    }


def _suffix(data: bytes) -> str:
    """File suffix by the bytes, for names lie."""
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"


def _check_drops(folder: Path, account: dict[str, Any], allowed: float) -> None:
    """StoreError if too many rows cannot be used, or went with their shards."""
    reasons = Counter(account["dropped"])
    lost = account["not_obtained"].get(LOST, 0)
    if lost:
        reasons[LOST] = lost

    # Rows that the network did not give were never there to be lost.
    there = reasons.total() + account["decoded"]
    if reasons.total() > allowed * there:
        faults = {name: number for name, number in account["shards"].items() if name != "read"}
        raise StoreError(
            f"{folder}: {reasons.total()} of {there} rows cannot be used ({dict(reasons)}; "
            f"allowed: {allowed:.2%}); faults of shards: {faults or 'none'}"
        )


def _tell_shortage(slot: str, folder: Path, account: dict[str, Any]) -> None:
    """Print a line where there are fewer pairs than were asked for."""
    used, wanted = account["used"], account["wanted"]
    if used < wanted:
        print(
            f"repro: {slot}: {used} of {wanted} pairs, for {folder} holds no more; see "
            "accounting.json for what became of the others",
            file=sys.stderr,
        )


def _check_slots(profile: Profile, source: ShardSource, keys: dict[Dataset, NDArray[Any]]) -> None:
    """StoreError if two slots that differ in number or source hold the same pairs.

    `keys` are those of a slot's pairs, (N,) sorted.
    """
    for one, other in itertools.combinations(keys, 2):
        asked = [(profile.data.num_pairs[slot], source.pairs[slot]) for slot in (one, other)]
        if asked[0] == asked[1]:
            continue

        if np.array_equal(keys[one], keys[other]):
            raise StoreError(
                f"data.yaml: num_pairs: {one} and {other} hold the same {len(keys[one])} pairs "
                f"(asked for: {asked[0][0]} of {asked[0][1]} and {asked[1][0]} of {asked[1][1]}); "
                "bring more shards, or ask for fewer pairs"
            )
