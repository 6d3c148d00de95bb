"""What `run-one` asks of its folder, as every stage does."""

from pathlib import Path

import pytest

from repro.data import stages
from repro.launch import single
from repro.profile import load_profile
from repro.runs.run import Run
from repro.spec import SpecError


@pytest.fixture
def poisoned(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of poisoned pairs in a working folder where nothing is trained."""
    monkeypatch.chdir(tmp_path)
    Path("specs").symlink_to(root / "specs")
    store = Path("poisoned/smoke/cc3m")
    store.mkdir(parents=True)
    stages.write_settings(store, stages.poison_settings(load_profile("smoke")))
    monkeypatch.setattr(single, "identify", lambda spec, *_: Run(spec, "0" * 16, {}, "code"))
    monkeypatch.setattr(single, "main", lambda path: None)
    return store


def test_pairs_of_other_settings_are_refused(poisoned: Path) -> None:
    settings = stages.poison_settings(load_profile("smoke"))
    single.step_through("pretrain", "smoke", "cc3m", "mmcl")
    settings["data"]["poison"]["trigger"]["patch_size"] = 4
    stages.write_settings(poisoned, settings)
    with pytest.raises(SpecError, match=r"poisoned/smoke/cc3m: made with .*patch_size: 4"):
        single.step_through("pretrain", "smoke", "cc3m", "mmcl")


def test_the_cache_may_be_a_link_to_a_folder_that_is_not_there(poisoned: Path) -> None:
    Path("work").mkdir()
    Path("work/cache").symlink_to(Path("scratch/cache").absolute())
    single.step_through("pretrain", "smoke", "cc3m", "mmcl")
    assert (single.FOLDER / "cache").is_dir()
