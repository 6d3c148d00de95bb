"""Files that are not as dvc.lock says are named one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.integrity.locked import changed_outputs, locked_outputs
from repro.ledger import LedgerError

Harm = Callable[[Path], object]
HARMS: dict[str, Harm] = {
    "flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two files and a single file, as DVC knows them, with the list in its cache."""
    monkeypatch.chdir(tmp_path)
    folder = Path("out")
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"first")
    (folder / "deep/b").write_bytes(b"second")
    Path("single").write_bytes(b"third")

    entries = [
        {"md5": md5(b"first"), "relpath": "a"},
        {"md5": md5(b"second"), "relpath": "deep/b"},
    ]
    listing = json.dumps(entries).encode()
    name = md5(listing) + ".dir"
    cached = Path(".dvc/cache/files/md5") / name[:2] / name[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(listing)
    outs = [{"path": "out", "md5": name}, {"path": "single", "md5": md5(b"third")}]
    Path("dvc.lock").write_text(json.dumps({"stages": {"s": {"outs": outs}}}))
    return cached


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["out/a", "out/deep/b", "single"])
def test_dvc_lock_names_each_damaged_file_and_no_other(outputs: Path, name: str, harm: str) -> None:
    assert list(changed_outputs(locked_outputs())) == []
    HARMS[harm](Path(name))
    (line,) = changed_outputs(locked_outputs())
    assert line.startswith(f"{name}: ")


def test_a_file_that_no_stage_made_is_named(outputs: Path) -> None:
    Path("out/more").touch()
    assert list(changed_outputs(locked_outputs())) == ["out/more: no part of what the stage made"]


@pytest.mark.parametrize("harm", HARMS)
def test_without_dvcs_list_the_folder_is_named(outputs: Path, harm: str) -> None:
    HARMS[harm](outputs)
    assert list(changed_outputs(locked_outputs())) == []
    Path("out/a").write_bytes(b"other")
    (line,) = changed_outputs(locked_outputs())
    assert line.startswith("out: not the folder that dvc.lock names; which of its 2 files")


def test_a_lock_file_that_is_none_is_refused(outputs: Path) -> None:
    for content in ("stages: [", "stages: 3", "- 1"):
        Path("dvc.lock").write_text(content)
        with pytest.raises(LedgerError, match=r"dvc\.lock: not a lock file of DVC"):
            locked_outputs()
    Path("dvc.lock").unlink()
    assert locked_outputs() == []
