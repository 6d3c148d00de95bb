"""Studies: their specifications load, their variants differ as they say, and their table says what the ledger holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_fixture import write_run

from repro import study
from repro.spec import SpecError, pretrain_runs

STUDIES = sorted(path.stem for path in Path(__file__).resolve().parents[1].glob("specs/studies/*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_a_study_is_a_profile(name: str) -> None:
    loaded = study.load_study(name)
    for label, variant in loaded.variants.items():
        runs = pretrain_runs(study.varied(loaded, variant), variant=label, poisoned=variant.poisoned)
        assert {run.seed for run in runs} == set(variant.seeds)
        assert all(run.run_id.startswith(label) for run in runs)


def test_a_variant_changes_the_field_it_names_and_its_data_folder() -> None:
    loaded = study.load_study("settings")
    base = study.varied(loaded, loaded.variants["default"])
    larger = loaded.variants["default"].model_copy(update={"overrides": {"data.poison.trigger.patch_size": 8}})
    changed = study.varied(loaded, larger)
    assert (base.data.poison.trigger.patch_size, changed.data.poison.trigger.patch_size) == (16, 8)
    assert study._data_key(base) == study._data_key(changed)  # the same drawings
    assert study._poison_key(base) != study._poison_key(changed)


def test_an_override_of_a_field_that_does_not_exist_is_refused() -> None:
    loaded = study.load_study("settings")
    wrong = loaded.variants["default"].model_copy(update={"overrides": {"data.poison.patch": 8}})
    with pytest.raises(SpecError, match=r"poison\.patch: no such field to override"):
        study.varied(loaded, wrong)


def test_the_table_gives_every_seed_and_the_lowest_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of one variant: accuracy 25% and 50%, ASR 75% and 100%, on the fixture's images."""
    loaded = study.load_study("settings")
    variant = loaded.variants["default"].model_copy(update={"seeds": [0, 1]})
    runs = pretrain_runs(study.varied(loaded, variant), "cc6m", "mmcl", variant="default")
    for run, outcome in zip(runs, [(0.25, 0.75), (0.5, 1.0)], strict=True):
        write_run(tmp_path, run, [(0.0, 0.0), outcome])
    monkeypatch.setattr(study, "results_of", lambda name: tmp_path / "results")
    line = next(line for line in study.table("settings").splitlines() if line.startswith("| default"))
    assert "| cc6m-mmcl | 0, 1 | 25.0 / 50.0 |" in line
    rates = [float(text) for text in line.split("|")[6].split("/")]
    assert rates[0] == pytest.approx(75, abs=1.5) and rates[1] == 100 and line.split("|")[7].strip() == f"{min(rates):.1f}"
