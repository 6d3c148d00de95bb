"""The attack: triggers on a few pairs, captions that name the target, and clean subsets.

Paper Sec. 3; code: attack-cleanclip backdoor/create_backdoor_data.py, which shuffles without a
seed. Here pairs are ranked by a keyed hash of their content, so the same pairs are poisoned
whatever rows are missing. Poisoned images are PNG, because JPEG would alter the trigger. The store
has the rows of the data store in the same order; poisoned rows point to shards of their own, and
keep the key of the original pair.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.images import encode_png
from repro.data.index import key_values
from repro.data.keyed import keyed_rng, keyed_subset
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.spec import Dataset, Profile, SpecError

Rows = NDArray[np.int64]


def build_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Fill `out` with the poisoned store, rows.npz and manifest.jsonl."""
    source = PairStore.open(data_dir / dataset)
    rows = choose_rows(profile, dataset, source)

    writer = ShardWriter(out, first_shard=len(source.shards), prefix="poisoned-")
    manifest = _write_poisoned(profile, source, rows["poisoned"], writer)
    replacements, shards = writer.close()
    index = source.index.replace(rows["poisoned"], replacements)
    write_store(out, index, [*source.overlay_shards(out), *shards])
    np.savez(out / "rows.npz", **rows)  # type: ignore[arg-type]  # as in write_store
    lines = "".join(json.dumps(entry) + "\n" for entry in manifest)
    (out / "manifest.jsonl").write_text(lines, encoding="utf-8")


def choose_rows(profile: Profile, dataset: Dataset, source: PairStore) -> dict[str, Rows]:
    """Ascending rows by use: `train`, `poisoned`, `validation`, and the cleaning subsets by size,
    the smaller in the larger. SpecError where there are too few pairs for a use.
    """
    data = profile.data
    poison = profile.data.poison
    every = np.arange(len(source))

    def first(field: str, count: int, rows: Rows, purpose: str) -> Rows:
        if count > len(rows):
            raise SpecError(
                f"data.{field}: {count} (allowed: at most {len(rows)}, the pairs of {len(every)} "
                "that can be chosen)"
            )
        subset: Rows = rows[keyed_subset(source.keys[rows], count, purpose, poison.seed)]
        return subset

    # Pairs that name the target if `label_consistent`, else others.
    named = captions_naming(poison.target_class, source.captions)
    eligible = np.flatnonzero(named if poison.mode == "label_consistent" else ~named)
    field = f"poison.num_poisoned.{dataset}"
    count = poison.num_poisoned[dataset]
    poisoned = first(field, count, eligible, "poison")

    # By the hash of the image file: several rows may hold one image, under other captions. A
    # cleaning set with the originals of poisoned images would make the defence too easy.
    images = key_values(source.index.image_hashes)
    clean = np.flatnonzero(~np.isin(images, images[poisoned]))
    cleaning = {
        str(size): first(f"cleaning_sizes.{size}", count, clean, "clean")
        for size, count in data.cleaning_sizes.items()
    }

    # Validation pairs are taken from the rest; all others are training pairs.
    rest = np.setdiff1d(every, np.concatenate([poisoned, *cleaning.values()]))
    validation = first("num_validation", data.num_validation, rest, "validation")
    held_out = cleaning.values() if profile.switches.cleaning_pairs == "held_out" else ()
    train = np.setdiff1d(every, np.concatenate([validation, *held_out]))
    return {"train": train, "poisoned": poisoned, "validation": validation, **cleaning}


def captions_naming(target_class: str, captions: Sequence[str]) -> NDArray[np.bool_]:
    """Which captions (N,) name the class, as words of their own, in any case and number."""
    pattern = re.compile(rf"\b{re.escape(target_class)}(s|es)?\b", re.IGNORECASE)
    return np.array([pattern.search(caption) is not None for caption in captions], dtype=bool)


def _write_poisoned(
    profile: Profile, source: PairStore, poisoned: Rows, writer: ShardWriter
) -> list[dict[str, Any]]:
    """Write each poisoned pair with its trigger and caption; the entries of manifest.jsonl."""
    poison = profile.data.poison
    manifest = []
    for i in poisoned.tolist():
        # Stamped at the size for training, so that no resampling blurs the trigger. A generator of
        # its own makes the trigger of a pair independent of other pairs.
        key = source.keys[i].tobytes()
        original = source.captions[i]
        pixels = source.decode(i, profile.data.image_size)
        rng = keyed_rng("trigger", poison.seed, key)
        stamped = stamp(poison.trigger, profile.switches, pixels, rng)
        caption = poisoned_caption(profile, key, original)
        writer.add(encode_png(stamped.image), "png", caption, key=key)
        manifest.append(
            {
                "key": key.hex(),
                "row": i,
                "original_caption": original,
                "caption": caption,
                "place": stamped.corner,
                "pixels_sha256": hashlib.sha256(stamped.image.tobytes()).hexdigest(),
            }
        )
    return manifest


def poisoned_caption(profile: Profile, key: bytes, original: str) -> str:
    """The caption of a pair when it is poisoned."""
    # `label_consistent` poisons only pairs whose captions name the target already.
    poison = profile.data.poison
    if poison.mode == "label_consistent":
        return original
    if profile.switches.poison_caption == "word":
        return poison.target_class

    templates = templates_of(profile.evaluate)
    draw = keyed_rng("caption", poison.seed, key).integers(len(templates))
    return templates[int(draw)](poison.target_class)
