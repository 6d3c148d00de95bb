"""Hashes of what a run reads of its inputs: contents, never names or places."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from repro.data.shards import PairStore
from repro.data.stages import check_settings, data_settings, poison_settings
from repro.files import file_sha256
from repro.runs.layout import content_hash
from repro.spec import Dataset, Profile, RunSpec, digest

STORE_FILES = ("index.npz", "shards.json", "rows.npz", "classnames.txt")


def input_hash(path: Path, spec: RunSpec) -> str:
    """Hash of an input, 16 hex digits: a file, a model's folder, or the part of a store that the
    run reads.

    StoreError if a store cannot be read. Shards are not read here: the store's list has their
    SHA-256, and every image is checked when it is decoded.
    """
    if not (path / "shards.json").exists():
        return content_hash(path)
    states = [(path / name).stat() for name in STORE_FILES if (path / name).exists()]
    state = tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in states)
    return _store_hashes(path.absolute(), state).part(spec)


class StoreHashes(NamedTuple):
    """Hashes of a store's parts."""

    content: str
    """Columns of the index, and SHA-256 of the shards in order."""
    rows: dict[str, str]
    """By name of a list in `rows.npz`; empty for a store without them."""
    classnames: str
    """Of an evaluation store's `classnames.txt`, else empty."""

    def part(self, spec: RunSpec) -> str:
        """Hash of the part that a run reads."""
        used = {name: self.rows[name] for name in rows_read(spec) if name in self.rows}
        return digest([self.content, sorted(used.items()), self.classnames])


def check_stores(
    profile: Profile, data: Path, poisoned: Path, datasets: Sequence[Dataset] = get_args(Dataset)
) -> None:
    """SpecError if a store that is there was made from other settings than the profile has.

    `data` and `poisoned` are the folders of the profile's stores.
    """
    stores = {data / name: data_settings(profile) for name in (*datasets, "evaluation")}
    stores |= {poisoned / dataset: poison_settings(profile) for dataset in datasets}
    for store, settings in stores.items():
        if store.is_dir():
            check_settings(store, settings)


def rows_read(spec: RunSpec) -> list[str]:
    """Lists of rows in a poisoned store's `rows.npz` that a run trains on."""
    if spec.stage == "pretrain":
        return ["train", "validation"] if spec.model_age == "best_validation_loss" else ["train"]
    return [str(spec.clean_size), *(["poisoned"] if spec.poisons_left else [])]


@lru_cache(maxsize=64)
def _store_hashes(folder: Path, state: tuple[tuple[int, int, int], ...]) -> StoreHashes:
    """Hashes of a store; `state` is that of its files, and part of the key of the cache."""
    rows = {}
    if (folder / "rows.npz").exists():
        with np.load(folder / "rows.npz", allow_pickle=False) as file:
            for name in file.files:
                content = np.ascontiguousarray(file[name], dtype=np.int64).tobytes()
                rows[name] = hashlib.sha256(content).hexdigest()
    names = folder / "classnames.txt"
    classnames = file_sha256(names) if names.exists() else ""
    return StoreHashes(PairStore.open(folder).content_hash(), rows, classnames)
