"""Studies: their specifications, their archives, their tables, and models that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.data.stages import data_key, data_settings, poison_key, poison_settings, write_settings
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.published import read_results
from repro.spec import SpecError
from repro.study import run as study_run
from repro.study.archive import read_archive, write_archive
from repro.study.asked import asked_runs, study_profiles
from repro.study.spec import archive_of, lenders, load_study, owner, study_names, varied
from tests.support.ledger import write_run

SPECS = Path(__file__).resolve().parents[2] / "specs"
STUDIES = study_names(SPECS)


def test_a_variant_changes_the_field_it_names_and_its_data_folder() -> None:
    loaded = load_study("starts")
    base = varied(loaded, loaded.variants["start"])
    larger = loaded.variants["start"].model_copy(
        update={"overrides": {"data.poison.trigger.patch_size": 8}}
    )
    changed = varied(loaded, larger)
    assert (base.data.poison.trigger.patch_size, changed.data.poison.trigger.patch_size) == (16, 8)
    assert data_key(base) == data_key(changed)  # the same drawings
    assert poison_key(base) != poison_key(changed)


def test_data_that_tell_of_other_settings_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").symlink_to(root / "specs")
    monkeypatch.chdir(tmp_path)
    loaded = load_study("starts")
    base = varied(loaded, loaded.variants["start"])

    # As after the stages of the main graph.
    stores = {Path("data/mini/evaluation"): data_settings(base)}
    stores |= {Path("poisoned/mini", name): poison_settings(base) for name in loaded.datasets}
    for folder, settings in stores.items():
        folder.mkdir(parents=True)
        write_settings(folder, settings)
    assert study_run.variant_folders(loaded, base) == (Path("data/mini"), Path("poisoned/mini"))
    for folder, settings in stores.items():
        write_settings(folder, settings | {"target_class": "star"})
        with pytest.raises(SpecError, match=f"{folder}: made with target_class: 'star'"):
            study_run.variant_folders(loaded, base)
        write_settings(folder, settings)


def test_the_table_gives_start_and_end_of_every_training_as_means_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smoke = load_profile("smoke", SPECS, {"pretrain.seeds": [0, 1]})
    for run in pretrain_runs(smoke, "cc6m", "mmcl", variant="a"):
        write_run(tmp_path, run, [(0.0, 0.0), (0.25 * (1 + run.seed), 1.0)])
    for run in clean_runs(smoke, "cc6m", "mmcl", variant="a"):
        if run.seed == 0 and run.loss == "mmcl_ssl" and run.clean_size == "100k":
            write_run(tmp_path, run, [(0.4, 0.9), (0.3, 0.02), (0.25, 0.0)])
    made = [(record, rows) for _, record, rows in read_results(tmp_path / "results")]
    write_archive(archive_of("x"), made)
    lines = [line.split()[-6:] for line in study_run.outcome_table("x").splitlines()[2:]]
    assert lines[0] == ["a", "2", "0.0", "0.0", "37.5", "100.0"]
    assert [line[1:] for line in lines[1:]] == [["1", "40.0", "90.2", "25.0", "0.0"]] * 2


def test_an_archive_gives_back_every_run_and_row_and_equal_runs_give_equal_bytes(
    tmp_path: Path,
) -> None:
    runs = pretrain_runs(load_profile("smoke"), "cc3m")
    for run in runs:
        write_run(tmp_path, run, [(0.0, 0.0), (0.5, 1.0)])
    written = [(record, rows) for _, record, rows in read_results(tmp_path / "results")]
    write_archive(tmp_path / "one.jsonl.gz", written)
    write_archive(tmp_path / "two.jsonl.gz", reversed(written))
    assert sorted(r.spec.cell for r, _ in read_archive(tmp_path / "one.jsonl.gz")) == [
        "cc3m-mmcl",
        "cc3m-mmcl_ssl",
    ]
    assert all(item in written for item in read_archive(tmp_path / "one.jsonl.gz"))
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_models_of_a_variant_are_trained_by_one_study() -> None:
    assert owner("default") == "seeds" and owner("unpoisoned") == "control"
    with pytest.raises(SpecError, match="trained by no study"):
        owner("nobody")


def test_a_lender_trains_the_seeds_that_are_asked_for() -> None:
    chosen = [("default", 12), ("unpoisoned", 11)]
    assert lenders(load_study("control"), chosen) == {"seeds": {("default", 12)}}


def test_every_lent_variant_is_of_the_same_kind_and_covers_the_borrowers_seeds() -> None:
    """A variant that cleans another's models asks for seeds, data sets and poisoning that the owner
    has.
    """
    for name in STUDIES:
        borrower = load_study(name)
        for label, variant in borrower.variants.items():
            if variant.models is not None:
                lender = load_study(owner(variant.models))
                lent = lender.variants[variant.models]
                assert lent.poisoned == variant.poisoned, (name, label)
                assert set(variant.seeds) <= set(lent.seeds) and set(borrower.datasets) <= set(
                    lender.datasets
                ), (name, label)
                assert set(variant.pretrain_objectives) <= set(lent.pretrain_objectives), (
                    name,
                    label,
                )


def test_a_borrowed_pre_training_is_the_lenders_run_whatever_the_variant_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the variant cleans with another set, whose store is another input."""
    monkeypatch.setattr(
        study_run, "variant_folders", lambda _, profile: (Path("data"), Path(poison_key(profile)))
    )
    study = load_study("regime")
    profiles = study_profiles(study)
    inputs = study_run.study_inputs(study, profiles)

    def computed(label: str) -> list[tuple[dict[str, Any], Path]]:
        runs = asked_runs(study, profiles, label, "pretrain")
        return [(run.computed(), inputs(run)["pairs"]) for run in runs if run.seed == 0]

    assert computed("half_of_the_pairs") == computed("epochs_16") != []
    assert computed("epochs_8") != computed("epochs_16")

    # Its cleaning is its own.
    own, lent = (
        {inputs(run)["pairs"] for run in asked_runs(study, profiles, label, "clean")}
        for label in ("half_of_the_pairs", "epochs_16")
    )
    assert own.isdisjoint(lent)
