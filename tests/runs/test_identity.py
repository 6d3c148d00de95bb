"""What a run is: inputs count by content, code by what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.profile import clean_runs, load_profile
from repro.runs import layout, run
from repro.runs.run import LaunchError


@pytest.mark.faults(5)
def test_a_missing_input_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError, match=r"poisoned/smoke/cc3m: missing \(input `pairs`"):
        run.identify(
            clean_runs(load_profile("smoke", root / "specs"))[0],
            {"pairs": Path("poisoned/smoke/cc3m")},
            "code",
        )


@pytest.mark.faults(5)
def test_a_folder_hash_sees_names_and_contents_but_not_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Path("store")
    store.mkdir()
    (store / "a.tar").write_bytes(b"1")
    first = layout.content_hash(store)
    (store / "run.json").write_text("seconds: 3")
    assert layout.content_hash(store) == first
    (store / "a.tar").rename(store / "b.tar")
    renamed = layout.content_hash(store)
    (store / "b.tar").write_bytes(b"22")
    assert len({first, renamed, layout.content_hash(store)}) == 3
