"""Make the results of data code in a folder: `python everything.py FOLDER`; prints the
hash of every file.

What is made must not depend on hash seed, locale, time zone, threads or cores; test_environment.py
varies them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.stages import make_poison
from repro.train.views.text import eda
from repro.train.views.tokens import tokenize
from tests.support.poison import make_data, profile

SYNONYMS = {
    "ripe": ["mature", "ready", "ripened"],
    "apple": ["pome", "apple tree"],
    "pear": ["pyrus"],
}
ODD = "İstanbul’da ILIK bir MUZ\u0301 \u202e 1,5 ﬁg"


def make() -> None:
    """Poisoned pairs, text views and tokens, in the working folder."""
    make_data(Path("data"))
    make_poison(profile(), "cc3m", Path("data"), Path("poisoned/mini/cc3m"))
    store = PairStore.open(Path("poisoned/mini/cc3m"))
    captions = [*store.captions, ODD]
    views = [eda(caption, keyed_rng("view", i), SYNONYMS) for i, caption in enumerate(captions)]
    Path("views.json").write_text(json.dumps(views), encoding="utf-8")
    Path("tokens.bin").write_bytes(tokenize(captions, "cut").numpy().tobytes())
    Path("pixels.bin").write_bytes(store.decoded(24, Path("cache")).tobytes())


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, locks and copies of the specifications left out."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and "specs" not in path.parts
    )
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    make()
    print(json.dumps(hashes(Path())))
