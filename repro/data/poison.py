"""The attack: triggers on a few pairs, captions that name the target, and clean subsets.

Paper Sec. 3; code: attack-cleanclip backdoor/create_backdoor_data.py, which shuffles without a
seed. Here pairs are ranked by a keyed hash of their content, so the same pairs are poisoned
whatever rows are missing. Poisoned images are PNG, because JPEG would alter the trigger. The store
has the rows of the data store in the same order; poisoned rows point to shards of their own, and
keep the key of the original pair.
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
from repro.data.index import Index, key_values
from repro.data.keyed import keyed_rng, keyed_subset
from repro.data.shards import PairStore, ShardWriter, write_json, write_store
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.spec import CleanSize, Dataset, Profile, SpecError

Rows = NDArray[np.int64]


def build_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Fill `out` with the poisoned store, rows.npz, manifest.jsonl and accounting.json."""
    source = PairStore.open(data_dir / dataset)
    keys = [key.tobytes() for key in source.keys]
    names_target = captions_naming(profile.data.poison.target_class, source.captions)
    poisoned = choose_poisoned(profile, dataset, keys, names_target)
    cleaning, copies = choose_cleaning(profile, source.index, keys, poisoned)

    writer = ShardWriter(out, first_shard=len(source.shards), prefix="poisoned-")
    manifest = _write_poisoned(profile, source, keys, poisoned, writer)
    replacements, shards = writer.close()
    index = source.index.replace(poisoned, replacements)
    write_store(out, index, [*source.overlay_shards(out), *shards])

    # Validation pairs are taken from the rest; all others are training pairs.
    data, taken = profile.data, np.concatenate([poisoned, *cleaning.values()])
    rest = np.setdiff1d(np.arange(len(source)), taken)
    validation = _subset(
        "num_validation", data.num_validation, rest, keys, "validation", data.poison.seed
    )
    train = np.setdiff1d(np.arange(len(source), dtype=np.int64), validation)
    if profile.switches.cleaning_pairs == "held_out":
        train = np.setdiff1d(train, np.concatenate(list(cleaning.values())))

    rows: dict[str, Rows] = {"train": train, "poisoned": poisoned, "validation": validation}
    rows |= {str(size): chosen for size, chosen in cleaning.items()}
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
    write_json(out / "accounting.json", accounting)


def captions_naming(target_class: str, captions: Sequence[str]) -> NDArray[np.bool_]:
    """Which captions (N,) name the class, as words of their own, in any case and number."""
    pattern = re.compile(rf"\b{re.escape(target_class)}(s|es)?\b", re.IGNORECASE)
    return np.array([pattern.search(caption) is not None for caption in captions], dtype=bool)


def choose_poisoned(
    profile: Profile, dataset: Dataset, keys: Sequence[bytes], names_target: NDArray[np.bool_]
) -> Rows:
    """Ascending rows to poison: pairs that name the target if `label_consistent`, else others."""
    poison = profile.data.poison
    eligible = np.flatnonzero(names_target if poison.mode == "label_consistent" else ~names_target)
    field, count = f"poison.num_poisoned.{dataset}", poison.num_poisoned[dataset]
    return _subset(field, count, eligible, keys, "poison", poison.seed)


def choose_cleaning(
    profile: Profile, index: Index, keys: Sequence[bytes], poisoned: Rows
) -> tuple[dict[CleanSize, Rows], int]:
    """Cleaning subsets by name, rows ascending, the smaller in the larger; number of copies.

    Copies are unpoisoned rows with the image of a poisoned one, and are in no subset: a cleaning
    set with the originals would make the defence too easy.
    """
    # By the hash of the image file: several rows may hold one image, under other captions.
    images = key_values(index.image_hashes)
    copies = np.setdiff1d(np.flatnonzero(np.isin(images, images[poisoned])), poisoned)
    clean = np.setdiff1d(np.arange(len(index)), np.concatenate([poisoned, copies]))
    seed = profile.data.poison.seed
    subsets = {
        size: _subset(f"cleaning_sizes.{size}", count, clean, keys, "clean", seed)
        for size, count in profile.data.cleaning_sizes.items()
    }
    return subsets, len(copies)


def _subset(
    field: str, count: int, rows: Rows, keys: Sequence[bytes], purpose: str, seed: int
) -> Rows:
    """The `count` of `rows` that come first in a keyed order, ascending; SpecError if too few."""
    if count > len(rows):
        raise SpecError(
            f"data.{field}: {count} (allowed: at most {len(rows)}, the pairs of {len(keys)} that "
            "can be chosen)"
        )
    subset: Rows = rows[keyed_subset([keys[i] for i in rows.tolist()], count, purpose, seed)]
    return subset


def _write_poisoned(
    profile: Profile, source: PairStore, keys: Sequence[bytes], poisoned: Rows, writer: ShardWriter
) -> list[dict[str, Any]]:
    """Write each poisoned pair with its trigger and caption; the entries of manifest.jsonl."""
    poison = profile.data.poison
    caption_of = caption_writer(profile)
    manifest = []
    for i in poisoned.tolist():
        # Stamped at the size for training, so that no resampling blurs the trigger. A generator of
        # its own makes the trigger of a pair independent of other pairs.
        key, original = keys[i], source.captions[i]
        pixels = source.decode(i, profile.data.image_size)
        rng = keyed_rng("trigger", poison.seed, key)
        stamped = stamp(poison.trigger, profile.switches, pixels, rng)
        row = writer.add(encode_png(stamped.image), "png", caption_of(key, original), key=key)
        manifest.append(
            {
                "key": key.hex(),
                "row": i,
                "original_caption": original,
                "caption": row.caption,
                "place": stamped.corner,
                "pixels_sha256": hashlib.sha256(stamped.image.tobytes()).hexdigest(),
            }
        )
    return manifest


def caption_writer(profile: Profile) -> Callable[[bytes, str], str]:
    """Function from key and caption of a pair to its caption when poisoned."""
    # `label_consistent` poisons only pairs whose captions name the target already.
    poison = profile.data.poison
    if poison.mode == "label_consistent":
        return lambda key, caption: caption
    if profile.switches.poison_caption == "word":
        return lambda key, caption: poison.target_class

    templates = templates_of(profile.evaluate)

    def from_template(key: bytes, caption: str) -> str:
        draw = keyed_rng("caption", poison.seed, key).integers(len(templates))
        return templates[int(draw)](poison.target_class)

    return from_template
