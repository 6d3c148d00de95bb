"""Tokens that do not change within a run, made once for all that read them: (rows, 77) on disk.

A memory map is shared by the ranks and loader processes of a machine. Token numbers are below
65,536, so that two bytes hold one: six million captions take 0.9 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repro.data.cache import cached_array
from repro.data.keyed import keyed_digest, keyed_rng
from repro.data.shards import PairStore
from repro.files import file_sha256
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import eda
from repro.train.views.tokens import CONTEXT_LENGTH, tokenize

Truncation = Literal["keep_eot", "cut"]

BLOCK = 4096
"""Captions that are tokenised before they are written."""

LIBRARIES = ("open_clip_torch", "transformers", "tokenizers", "ftfy")
MODULES = ("tokens.py", "text.py", "synonyms.py")


def caption_tokens(store: PairStore, folder: Path, truncation: Truncation) -> NDArray[np.uint16]:
    """Tokens of all captions of a store, (N, 77), as a read-only memory map in `folder`."""
    name = keyed_digest("tokens", store.content_hash(), truncation, tokens_version())
    rows = np.arange(len(store))
    return _stored(folder, name, rows, lambda row: store.captions[row], truncation)


def fixed_view_tokens(
    store: PairStore,
    rows: NDArray[np.int64],
    synonyms: Path,
    folder: Path,
    seed: int,
    truncation: Truncation,
) -> NDArray[np.uint16]:
    """Tokens of the text view that a run keeps for each of its rows, (n, 77), likewise."""
    table = Synonyms.read(synonyms)

    # Without the step in its key: one view of a caption for all epochs.
    def view(row: int) -> str:
        return eda(store.captions[row], keyed_rng("text view", seed, row), table)

    # All that the views depend on, so that a changed list or library makes them anew.
    chosen = rows.astype(np.int64).tobytes()
    name = keyed_digest(
        "fixed views", store.content_hash(), chosen, file_sha256(synonyms), seed, truncation
    )
    return _stored(folder, keyed_digest(name, tokens_version()), rows, view, truncation)


def _stored(
    folder: Path,
    name: bytes,
    rows: NDArray[np.int64],
    caption: Callable[[int], str],
    truncation: Truncation,
) -> NDArray[np.uint16]:
    """Tokens of a caption for each row, made unless they are in `folder`."""

    def blocks() -> Iterator[NDArray[np.uint16]]:
        for begin in range(0, len(rows), BLOCK):
            captions: Sequence[str] = [caption(row) for row in rows[begin : begin + BLOCK].tolist()]
            yield tokenize(captions, truncation).numpy().astype(np.uint16)

    path = folder / f"{name.hex()[:32]}.npy"
    return cached_array(path, (len(rows), CONTEXT_LENGTH), np.uint16, blocks)


@cache
def tokens_version() -> str:
    """What the tokens of a caption depend on besides it: libraries, and the code of this room."""
    here = Path(__file__).parent
    code = [file_sha256(here / name) for name in MODULES]
    return " ".join([*map(version, LIBRARIES), *code])
