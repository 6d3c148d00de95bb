"""Hashes of a folder's files, written where they are made and checked where they are read.

`SHA256SUMS` has the form of `sha256sum`, so that `sha256sum -c SHA256SUMS` checks a folder without
this project.
"""

from __future__ import annotations

import re
from pathlib import Path

from repro.data.index import StoreError
from repro.files import file_sha256, replace_file

SUMS = "SHA256SUMS"


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 in hex; empty where the folder has no list."""
    path = folder / SUMS
    if not path.exists():
        return {}

    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {}
    for line in lines:
        # Two spaces, and a name that may itself contain some.
        digest, _, name = line.partition("  ")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise StoreError(f"{path}: not a list of hashes; make the folder again")
        found[name] = digest

    return found


def write_sums(folder: Path, hashes: dict[str, str]) -> None:
    """Add the hashes of some files, or put them in the place of older ones."""
    merged = read_sums(folder) | hashes
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(merged.items()))
    replace_file(folder / SUMS, lines.encode())


def hash_folder(folder: Path) -> None:
    """List the files of a folder and of all folders in it; hashes that are listed already stay."""
    # Shards were hashed and listed as they were closed, and are not read once more.
    for inner in [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir())]:
        known = read_sums(inner)
        files = [path for path in sorted(inner.iterdir()) if path.is_file() and path.name != SUMS]
        new = {path.name: file_sha256(path) for path in files if path.name not in known}
        if new:
            write_sums(inner, new)


def whole(folder: Path, name: str) -> Path:
    """The path of a file that is as it was written.

    StoreError if it is not, or is not listed; FileNotFoundError if it is not there.
    """
    # The file before its list: where neither is there, it is the file that is missed.
    path = folder / name
    found = file_sha256(path)
    expected = read_sums(folder).get(name)
    if expected is None:
        raise StoreError(f"{folder / SUMS}: {name} is not listed; make the folder again")
    if found != expected:
        raise StoreError(f"{path}: not as it was written; make the folder again")

    return path


def damaged(folder: Path) -> list[Path]:
    """Files of a folder, and of folders in it, that are lost or not as they were written.

    A folder without a list counts as damaged itself.
    """
    lists = sorted(folder.rglob(SUMS))
    if not lists:
        return [folder]

    wrong = []
    for listing in lists:
        try:
            hashes = read_sums(listing.parent)
        except StoreError:
            # Of a list that cannot be read nothing can be held to it, so it is the damage itself.
            wrong.append(listing)
            continue

        for name, digest in hashes.items():
            path = listing.parent / name
            if not path.is_file() or file_sha256(path) != digest:
                wrong.append(path)

    return wrong
