"""The whole graph at profile `smoke`, trained once for all tests that look at a finished study."""

import hashlib
import shutil
import sys
from pathlib import Path

from tests.support.checkout import dvc, fresh_checkout, listed
from tests.support.once import made_once

UNSEEN = ("tests/", "benchmarks/", "tools/", "Makefile")
"""What no stage reads, besides Markdown."""


def trained_study(root: Path, cache: Path) -> Path:
    """A checkout at `smoke`, run to its end by `dvc repro`; not to be changed.

    It stays in `cache` until what its stages read is another.
    """
    state = state_of(root)
    for old in cache.iterdir():
        if old.name != state:
            shutil.rmtree(old, ignore_errors=True)
    return made_once(cache / state / "a study", lambda folder: _train(root, folder))


def state_of(root: Path) -> str:
    """Digest of Python's version and of all files that a stage may read."""
    digest = hashlib.sha256(sys.version.encode())
    for name in listed(root):
        if not name.startswith(UNSEEN) and not name.endswith(".md"):
            content = (root / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _train(root: Path, folder: Path) -> None:
    fresh_checkout(root, folder, whole_lock=True)
    (folder / "params.yaml").write_text("profile: smoke\n")
    dvc(folder, "repro")
