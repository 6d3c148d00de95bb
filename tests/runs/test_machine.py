"""The commit that a run's record names, and what counts as an edit of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import repro
from repro.runs.machine import WRITTEN, commit_state


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a package and of all that the commands write, as the imported one."""
    archive = "results/studies/seeds.jsonl.gz"
    for name in ("repro/__init__.py", "specs/mini.yaml", archive, *WRITTEN):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_text("as committed\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(repro, "__file__", str(tmp_path / "repro/__init__.py"))
    return tmp_path


def test_what_the_commands_write_is_no_edit(clone: Path) -> None:
    """As in a fresh clone, where DVC has written dvc.lock after the first stage."""
    assert commit_state()[1] is False
    for name in (*WRITTEN, "results/studies/seeds.jsonl.gz"):
        if (clone / name).is_file():
            (clone / name).write_text("written by a stage\n")
    (clone / "results/mini").mkdir()
    (clone / "results/mini/rows.jsonl").write_text("untracked\n")
    commit, dirty = commit_state()
    assert commit is not None and len(commit) == 40
    assert dirty is False


@pytest.mark.parametrize("name", ["repro/__init__.py", "specs/mini.yaml"])
def test_an_edit_of_code_or_specification_is_told(clone: Path, name: str) -> None:
    (clone / name).write_text("edited\n")
    assert commit_state()[1] is True


def test_outside_of_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repro, "__file__", str(tmp_path / "repro/__init__.py"))
    assert commit_state() == (None, False)
