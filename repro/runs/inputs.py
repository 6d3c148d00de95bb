"""Hashes of what a run reads of its inputs: contents, never names or places."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np

from repro.data.shards import PairStore
from repro.data.stages import check_settings, data_settings, is_absent, poison_settings
from repro.files import file_sha256
from repro.ledger import read_npz
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
    files = [path / name for name in STORE_FILES if (path / name).exists()]
    hashes = tuple(file_sha256(file) for file in files)
    content, rows, classnames = _store_hashes(path.absolute(), hashes)
    used = sorted((name, rows[name]) for name in rows_read(spec) if name in rows)
    return digest([content, used, classnames])


def check_stores(
    profile: Profile, data: Path, poisoned: Path, datasets: Sequence[Dataset] = get_args(Dataset)
) -> None:
    """SpecError if a store that is there was made from other settings than the profile has.

    `data` and `poisoned` are the folders of the profile's stores.
    """
    stores = {data / name: data_settings(profile) for name in (*datasets, "evaluation")}
    stores |= {poisoned / dataset: poison_settings(profile) for dataset in datasets}
    for store, settings in stores.items():
        if store.is_dir() and not is_absent(store):
            check_settings(store, settings)


def rows_read(spec: RunSpec) -> list[str]:
    """Lists of rows in a poisoned store's `rows.npz` that a run reads."""
    if spec.stage == "pretrain":
        validation = ["validation"] if spec.model_age == "best_validation_loss" else []
        return ["train", *validation, *(["poisoned"] if spec.second_view != "all" else [])]
    return [str(spec.clean_size), *(["poisoned"] if spec.poisons_left else [])]


@cache
def _store_hashes(folder: Path, files: tuple[str, ...]) -> tuple[str, dict[str, str], str]:
    """Hashes of a store: columns and shards, each list in `rows.npz`, `classnames.txt` (or "").

    `files` are the hashes of its files, which make the key of the cache.
    """
    rows = {}
    if (folder / "rows.npz").exists():
        for name, numbers in read_npz(folder / "rows.npz").items():
            content = np.ascontiguousarray(numbers, dtype=np.int64).tobytes()
            rows[name] = hashlib.sha256(content).hexdigest()
    names = folder / "classnames.txt"
    classnames = file_sha256(names) if names.exists() else ""
    return PairStore.open(folder).content_hash, rows, classnames
