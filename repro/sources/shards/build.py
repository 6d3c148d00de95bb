"""The paper's data from the user's disk: pairs in webdataset shards, ImageNet-1K validation.

Pairs stay where they are: the stores of the datasets name the user's shards. Evaluation images are
copied into shards. accounting.json counts every row by its fate: `listed` is the sum of the others.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import ImageError, open_rgb
from repro.data.index import StoreError
from repro.data.keyed import keyed_subset
from repro.data.shards import PairStore, ShardWriter, write_json, write_store
from repro.data.stages import leave_out
from repro.profile import load_classnames
from repro.sources.packages import WORDNET_CREDIT
from repro.sources.shards.imagenet import validation_images
from repro.sources.shards.tars import ShardIndex, index_shards
from repro.spec import Profile, ShardSource

SHOWN = 5
"""Files that a message names."""


def build_external(profile: Profile, out: Path) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    A dataset without a folder is left out, unless none has one. Raises StoreError if a folder holds
    no usable row, if more than `max_drop_fraction` of its rows are unusable or lost, or if a class
    has not `images_per_class` evaluation images.
    """
    source = profile.data.source
    assert isinstance(source, ShardSource)
    names = load_classnames(profile)
    accounts: dict[str, Any] = {"evaluation": _build_evaluation(source, names, out)}

    brought = [name for name in profile.data.num_pairs if Path(source.pairs[name]).exists()]
    for dataset, count in profile.data.num_pairs.items():
        folder = Path(source.pairs[dataset])
        if brought and dataset not in brought:
            reason = f"{dataset}: {folder} is not there; the study goes without {dataset}"
            print(f"repro: {reason}", file=sys.stderr)
            leave_out(out / dataset, reason)
            continue
        index = index_shards(folder)
        fates = _unusable(folder, index, source.max_drop_fraction)
        if index.faulty:
            print(f"repro: {dataset}: without rows of {_some(index.faulty)}", file=sys.stderr)
        rows = select(index, count, source.selection[dataset])
        if len(rows) < count:
            poisoned = profile.data.poison.num_poisoned[dataset]
            print(
                f"repro: {dataset}: {len(rows)} of {count} pairs, because {folder} holds no more; "
                f"of them {poisoned / len(rows):.3%} will be poisoned, not {poisoned / count:.3%}; "
                "accounting.json counts the others by reason",
                file=sys.stderr,
            )

        fates["duplicate"] = len(index.index) - len(index.rows)
        fates["surplus"] = len(index.rows) - len(rows)
        fates["used"] = len(rows)
        shards = {"wanted": count, "shards": dict(index.shards), "faulty_shards": index.faulty}
        accounts[dataset] = {"listed": fates.total(), **fates, **shards}

        (out / dataset).mkdir()
        _lay_over(folder, index, rows, out / dataset)

    used = {name: account["used"] for name, account in accounts.items()}
    write_json(out / "accounting.json", {"sources": accounts, "used": used})
    changes = "none; read from the user's disk"
    attribution = {"changes": changes, "images": [], "text": [WORDNET_CREDIT]}
    write_json(out / "attribution.json", attribution)


def _lay_over(folder: Path, index: ShardIndex, rows: NDArray[np.int64], out: Path) -> None:
    """Write a store of some rows of the user's shards.

    It lists the shards that it has rows of: its hash, on which every run rests, stays as it is
    when others come or go.
    """
    taken = index.index.take(rows)
    numbers, shard, counts = np.unique(taken.shard, return_inverse=True, return_counts=True)
    used = [
        replace(index.files[number], count=int(count))
        for number, count in zip(numbers, counts, strict=True)
    ]
    taken = replace(taken, shard=shard.astype(np.int32))
    write_store(out, taken, PairStore(folder, taken, used).overlay_shards(out))


def select(index: ShardIndex, count: int, selection: str) -> NDArray[np.int64]:
    """Ascending positions of at most `count` distinct pairs: `keyed` by hash, or the `first`."""
    if selection == "first":
        return index.rows[:count]
    # One order for all datasets: if cc3m and cc6m are one folder, the smaller lies in the larger.
    chosen: NDArray[np.int64] = index.rows[
        keyed_subset(index.index.keys[index.rows], count, "slot")
    ]
    return chosen


def _unusable(folder: Path, index: ShardIndex, allowed: float) -> Counter[str]:
    """Unusable and lost rows by reason; StoreError if they are too many."""
    reasons = index.dropped + Counter({"lost_with_shards": index.lost})
    rows = reasons.total() + len(index.index)
    if reasons.total() > allowed * rows:
        raise StoreError(
            f"{folder}: {reasons.total()} of {rows} rows cannot be used ({dict(reasons)}; "
            f"allowed: {allowed:.2%}); missing shards: {index.shards['missing']}; faulty shards: "
            f"{_some(index.faulty)}"
        )
    return reasons


def _some(names: list[str]) -> str:
    """The first few names, and how many follow."""
    listed = ", ".join(names[:SHOWN]) or "none"
    return f"{listed} and {len(names) - SHOWN} more" if len(names) > SHOWN else listed


def _build_evaluation(source: ShardSource, names: list[str], out: Path) -> dict[str, int]:
    (out / "evaluation").mkdir()
    writer = ShardWriter(out / "evaluation")
    dropped: Counter[str] = Counter()
    named: list[str] = []
    per_class: Counter[int] = Counter()
    folder = Path(source.evaluation)
    images = validation_images(folder, len(names))
    for image in images:
        # Decoded once here, so that no evaluation meets a damaged image.
        data = image.path.read_bytes()
        try:
            open_rgb(data)
        except ImageError as error:
            dropped[error.reason] += 1
            named.append(f"{image.path}: {error.reason}")
            continue
        writer.add(data, image.path.suffix[1:], names[image.label], image.label)
        per_class[image.label] += 1

    index, shards = writer.close()
    # Accuracy is a mean over images: a missing image would give its class less weight.
    wrong = [label for label in range(len(names)) if per_class[label] != source.images_per_class]
    if wrong:
        raise StoreError(
            f"{folder}: {len(index)} usable images of {len(images)} (allowed: "
            f"{source.images_per_class * len(names)}); {len(wrong)} classes have more or fewer "
            f"than {source.images_per_class}, the first {names[wrong[0]]!r} with "
            f"{per_class[wrong[0]]}; not used: {_some(named)}"
        )
    write_store(out / "evaluation", index, shards)
    return {"listed": len(images), **dropped, "used": len(index)}
