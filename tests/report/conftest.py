"""One synthetic report for all tests of pages, exports, verify and publish."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.whole import write_whole


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, archives of three studies over three seeds, and the report of all of it.

    A test that changes anything takes `copy`.
    """
    folder = tmp_path_factory.mktemp("whole")
    write_whole(folder, ("seeds", "control", "mechanism"), seeds=3)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that a test may change; it is the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    return folder
