"""What tests share is made once."""

from pathlib import Path

import pytest

from tests.support.once import made_once


def test_what_tests_share_is_made_once_and_anew_after_a_failure(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "part").touch()
        if len(calls) == 1:
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        made_once(tmp_path / "shared", make)
    assert made_once(tmp_path / "shared", make).is_dir()
    made_once(tmp_path / "shared", make)
    assert len(calls) == 2
