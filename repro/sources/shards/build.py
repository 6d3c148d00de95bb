"""The data set of the paper from the user's disk: pairs in webdataset shards, ImageNet-1K
validation as zero-shot task.

Pairs stay where they are, the stores of the slots are overlays over the user's shards; evaluation
images are copied into shards of our own, whatever form they come in. Every row is accounted for in
accounting.json: listed = not_obtained + dropped + duplicate + surplus + used, the first three of
them by reason or by number.
"""

from __future__ import annotations

import dataclasses
import json
import os
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
from repro.spec import Profile, ShardSource


def build_external(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises StoreError if a folder holds nothing usable, if more than `max_drop_fraction` of its
    rows cannot be used, or if a class has not `images_per_class` evaluation images.
    """
    source = profile.data.source
    assert isinstance(source, ShardSource)
    sources: dict[str, Any] = {
        "evaluation": _build_evaluation(source, load_classnames(profile), out)
    }
    for slot, count in profile.data.num_pairs.items():
        folder = Path(source.pairs[slot])
        index = index_shards(folder)
        _check_drops(
            folder, index.accounting.dropped, index.accounting.listed, source.max_drop_fraction
        )
        rows = select(index, count, source.selection[slot])
        (out / slot).mkdir()
        here = [
            dataclasses.replace(shard, path=os.path.relpath(folder / shard.path, out / slot))
            for shard in index.shards
        ]
        write_store(out / slot, index.take(rows), here)
        sources[slot] = row_accounting(folder, index.accounting, len(rows)) | {"wanted": count}
    used = {name: account["used"] for name, account in sources.items()}
    write_json(out / "accounting.json", {"sources": sources, "used": used})
    write_json(
        out / "attribution.json",
        {"changes": "none; read from the user's disk", "images": [], "text": [WORDNET_CREDIT]},
    )


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


def row_accounting(folder: Path, shards: Accounting, used: int) -> dict[str, Any]:
    """What became of every row, from the URL list where `folder` was filled by `python -m repro
    fetch`.
    """
    path = folder / "accounting.json"
    fetched = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    not_obtained = Counter(fetched.get("refused", {})) + Counter(fetched.get("failed", {}))
    if (lost := fetched.get("obtained", 0) - shards.listed) > 0:
        not_obtained["lost_since_download"] = lost
    return {
        "listed": not_obtained.total() + shards.listed,
        "not_obtained": dict(not_obtained),
        "obtained": shards.obtained,
        "decoded": shards.decoded,
        "dropped": dict(shards.dropped),
        "duplicate": shards.duplicate,
        "surplus": shards.decoded - shards.duplicate - used,
        "used": used,
        "shards": dict(shards.shards),
    }


def _build_evaluation(source: ShardSource, names: list[str], out: Path) -> dict[str, Any]:
    folder = Path(source.evaluation)
    (out / "evaluation").mkdir()
    writer = ShardWriter(out / "evaluation")
    dropped: Counter[str] = Counter()
    per_class: Counter[int] = Counter()
    images = validation_images(folder, len(names))
    for image in images:
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


def _check_drops(folder: Path, dropped: Counter[str], listed: int, allowed: float) -> None:
    if listed and dropped.total() > allowed * listed:
        raise StoreError(
            f"{folder}: {dropped.total()} of {listed} rows cannot be used ({dict(dropped)}; "
            f"allowed: {allowed:.2%})"
        )
