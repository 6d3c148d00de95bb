"""The attack: triggers on a few pairs, captions that name the target, and the clean subsets drawn
from the rest.

Paper Sec. 3; code: attack-cleanclip backdoor/create_backdoor_data.py, which shuffles without a
seed. Here pairs are ranked by a keyed hash of their content, so the same pairs are poisoned
whatever rows are missing. Poisoned images are PNG, for JPEG would alter the trigger. The result is
an overlay: the rows of the data store, in its order, with poisoned rows pointing to shards of
their own; a poisoned row keeps the key of the pair it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import encode_png
from repro.data.index import Captions, Index, StoreError
from repro.data.keyed import keyed_order, keyed_rng, keyed_subset
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.sums import hash_folder
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.spec import Dataset, Profile, SpecError

Rows = NDArray[np.int64]


def build_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Fill `out` with the poisoned store, rows.npz, manifest.jsonl and accounting.json.

    Raises SpecError if fewer pairs are eligible than are to be poisoned, or fewer clean ones left
    than a subset needs.
    """
    source = PairStore.open(data_dir / dataset)
    keys = [key.tobytes() for key in source.keys]
    names_target = captions_naming(profile.data.poison.target_class, source.captions)

    # Which pairs are poisoned, and which are cleaning pairs.
    poisoned = choose_poisoned(profile, dataset, keys, names_target)
    cleaning, copies = choose_cleaning(profile, source.index, keys, poisoned)

    # The store: that of the data, with poisoned rows in shards of its own.
    writer = ShardWriter(out, first_shard=len(source.shards), prefix="poisoned-")
    manifest = _write_poisoned(profile, source, keys, poisoned, writer)
    own, shards = writer.close()
    overlay = _replaced(source.index, poisoned, own)
    check_hygiene(overlay, source.index, poisoned, cleaning)
    write_store(out, overlay, [*source.overlay_shards(out), *shards])

    # Validation pairs are taken from what is left; training pairs are all the others.
    taken = np.concatenate([poisoned, *cleaning.values()])
    validation = choose_validation(profile, keys, taken)
    train = np.setdiff1d(np.arange(len(source), dtype=np.int64), validation)
    if profile.switches.cleaning_pairs == "held_out":
        train = np.setdiff1d(train, np.concatenate(list(cleaning.values())))

    rows = {"train": train, "poisoned": poisoned, "validation": validation, **cleaning}
    np.savez(out / "rows.npz", **rows)  # type: ignore[arg-type]  # as in write_store
    lines = "".join(json.dumps(entry) + "\n" for entry in manifest)
    (out / "manifest.jsonl").write_text(lines, encoding="utf-8")

    accounting = {
        "pairs": len(source),
        "naming_target": int(names_target.sum()),
        "poisoned": len(poisoned),
        "copies_of_poisoned_images": copies,
        "train": len(train),
        "validation": len(validation),
        "cleaning": {size: len(chosen) for size, chosen in cleaning.items()},
    }
    (out / "accounting.json").write_text(json.dumps(accounting, indent=1) + "\n", encoding="utf-8")
    hash_folder(out)


def _write_poisoned(
    profile: Profile,
    source: PairStore,
    keys: Sequence[bytes],
    poisoned: Rows,
    writer: ShardWriter,
) -> list[dict[str, Any]]:
    """Write each poisoned pair with its trigger and caption; the entries of manifest.jsonl."""
    # Every pair has a generator of its own, so that its trigger does not depend on other pairs.
    poison = profile.data.poison
    recaption = caption_writer(profile)

    manifest = []
    for i in poisoned.tolist():
        # Stamped at the size at which training sees it: no later resampling blurs the noise.
        key, original = keys[i], source.captions[i]
        pixels = source.decode(i, profile.data.image_size)
        rng = keyed_rng("trigger", poison.seed, key)
        stamped = stamp(poison.trigger, profile.switches, pixels, rng)
        row = writer.add(encode_png(stamped.image), "png", recaption(key, original), key=key)

        entry = {
            "key": key.hex(),
            "row": i,
            "original_caption": original,
            "caption": row.caption,
            "place": stamped.corner,
            "pixels_sha256": hashlib.sha256(stamped.image.tobytes()).hexdigest(),
        }
        manifest.append(entry)

    return manifest


def captions_naming(target_class: str, captions: Sequence[str]) -> NDArray[np.bool_]:
    """Which captions (N,) name the class, as words of their own, in any case and number."""
    pattern = re.compile(rf"\b{re.escape(target_class)}(s|es)?\b", re.IGNORECASE)
    return np.array([pattern.search(caption) is not None for caption in captions], dtype=bool)


def choose_poisoned(
    profile: Profile, dataset: Dataset, keys: Sequence[bytes], names_target: NDArray[np.bool_]
) -> Rows:
    """Rows to poison, ascending.

    `dirty_label` takes pairs that do not name the target, `label_consistent` only those that do.
    """
    # A caption that names the target is no wrong one for it, but the only consistent one.
    poison = profile.data.poison
    wanted = poison.num_poisoned[dataset]
    eligible = np.flatnonzero(names_target if poison.mode == "label_consistent" else ~names_target)
    if wanted > len(eligible):
        raise SpecError(
            f"data.yaml: poison.num_poisoned.{dataset}: {wanted} (allowed: 1 to {len(eligible)}, "
            f"the pairs of {len(keys)} that {poison.mode} can poison for {poison.target_class!r})"
        )

    eligible_keys = [keys[i] for i in eligible.tolist()]
    chosen: Rows = eligible[keyed_subset(eligible_keys, wanted, "poison", poison.seed)]
    return chosen


def choose_cleaning(
    profile: Profile, index: Index, keys: Sequence[bytes], poisoned: Rows
) -> tuple[dict[str, Rows], int]:
    """Cleaning subsets by name, rows ascending; and how many rows were passed over.

    The smaller subset is nested in the larger. Passed over are unpoisoned rows that hold the same
    image as a poisoned one: a cleaning set that knows the originals would be too kind.
    """
    # By the hash of the image file: one picture may stand in several rows, under other captions.
    images = _hashes(index.image_hashes)
    copies = np.setdiff1d(np.flatnonzero(np.isin(images, images[poisoned])), poisoned)
    clean = np.setdiff1d(np.arange(len(index)), np.concatenate([poisoned, copies]))

    # One order for all sizes: what is taken from its front is nested.
    order = clean[keyed_order([keys[i] for i in clean], "clean", profile.data.poison.seed)]

    subsets: dict[str, Rows] = {}
    for size, count in profile.data.cleaning_sizes.items():
        if count > len(order):
            raise SpecError(
                f"data.yaml: cleaning_sizes.{size}: {count} (allowed: 1 to {len(order)}, "
                "the pairs left unpoisoned)"
            )
        subsets[size] = np.sort(order[:count])

    return subsets, len(copies)


def choose_validation(profile: Profile, keys: Sequence[bytes], taken: Rows) -> Rows:
    """Rows of the validation loss, ascending: neither poisoned nor cleaning pairs."""
    # 0 wanted is allowed: only `model_age: best_validation_loss` reads them.
    left = np.setdiff1d(np.arange(len(keys)), taken)
    wanted = profile.data.num_validation
    if wanted > len(left):
        raise SpecError(
            f"data.yaml: num_validation: {wanted} (allowed: 0 to {len(left)}, the pairs left over)"
        )

    left_keys = [keys[row] for row in left.tolist()]
    seed = profile.data.poison.seed
    chosen: Rows = left[keyed_subset(left_keys, wanted, "validation", seed)]
    return chosen


def caption_writer(profile: Profile) -> Callable[[bytes, str], str]:
    """Function from a pair's key and caption to the caption it gets."""
    # Where only pairs that name the target are poisoned, their captions are right as they are.
    poison = profile.data.poison
    if poison.mode == "label_consistent":
        return lambda key, caption: caption
    if profile.switches.poison_caption == "word":
        return lambda key, caption: poison.target_class

    # One of the sentences that the zero-shot evaluation asks with, by the pair's own draw.
    templates = templates_of(profile.evaluate)

    def from_template(key: bytes, caption: str) -> str:
        rng = keyed_rng("caption", poison.seed, key)
        template = templates[int(rng.integers(len(templates)))]
        return template(poison.target_class)

    return from_template


def check_hygiene(overlay: Index, source: Index, poisoned: Rows, cleaning: dict[str, Rows]) -> None:
    """StoreError if a cleaning row is a poisoned row, or holds the image of one, as it is or as it
    was.
    """
    # Asked of what was made, not of how: this holds whatever the choice above did.
    images = _hashes(overlay.image_hashes)
    dirty = np.concatenate([images[poisoned], _hashes(source.image_hashes)[poisoned]])

    for size, rows in cleaning.items():
        shared = np.intersect1d(rows, poisoned)
        if len(shared):
            raise StoreError(f"cleaning subset {size}: row {shared[0]} is poisoned")

        same = np.isin(images[rows], dirty)
        if same.any():
            first = rows[same][0]
            raise StoreError(
                f"cleaning subset {size}: row {first} holds the image of a poisoned pair"
            )


def _hashes(columns: NDArray[np.uint8]) -> NDArray[Any]:
    """Columns (N, 16) as N comparable values."""
    # Sixteen bytes as one value of a type that numpy can sort and compare.
    return np.ascontiguousarray(columns).view("V16").ravel()


def _replaced(index: Index, rows: Rows, own: Index) -> Index:
    """`index` with `rows` replaced by the rows of `own`."""
    # Copies: the source's own columns are still needed as they are.
    columns = {}
    for name in ("shard", "offset", "size", "keys", "image_hashes", "labels"):
        columns[name] = getattr(index, name).copy()
        columns[name][rows] = getattr(own, name)

    captions = list(index.captions)
    for i, caption in zip(rows, own.captions, strict=True):
        captions[i] = caption

    return Index(**columns, captions=Captions.of(captions))
