"""How the tests share work and in which order their files begin."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.support.once import made_once


def test_files_begin_longest_first_and_unknown_slow_ones_before_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "SECONDS", tmp_path / "seconds.json")
    conftest.SECONDS.write_text(json.dumps({"short.py": 3, "long.py": 70}))
    names = ("new.py::a", "short.py::a", "long.py::a", "slow.py::a", "long.py::b", "slow.py::b")
    items = [
        SimpleNamespace(
            nodeid=name, get_closest_marker=lambda mark, name=name: name == "slow.py::b"
        )
        for name in names
    ]
    conftest.pytest_collection_modifyitems(items)
    begun = [item.nodeid for item in items]
    assert begun == [
        *("slow.py::a", "slow.py::b", "long.py::a", "long.py::b"),
        *("short.py::a", "new.py::a"),
    ]


def test_measured_seconds_are_summed_by_file_and_files_that_are_gone_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    monkeypatch.setattr(conftest, "SECONDS", tmp_path / "seconds.json")
    conftest.SECONDS.write_text(json.dumps({"gone.py": 3, "kept.py": 70, "again.py": 9}))
    for name in ("kept.py", "again.py"):
        (tmp_path / name).touch()
    parts = [SimpleNamespace(nodeid=f"again.py::{part}", duration=1.5) for part in "ab"]
    conftest.write_seconds(parts)
    assert json.loads(conftest.SECONDS.read_bytes()) == {"again.py": 3.0, "kept.py": 70}


def test_what_tests_share_is_made_once_and_anew_after_a_failure(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "part").touch()
        if len(calls) == 1:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        made_once(tmp_path_factory, "shared", make)
    assert made_once(tmp_path_factory, "shared", make).is_dir()
    made_once(tmp_path_factory, "shared", make)
    assert len(calls) == 2
