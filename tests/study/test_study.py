"""Studies: their specifications, their archives, their tables, and models that they share."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from repro.data.stages import data_key, data_settings, poison_key, poison_settings, write_settings
from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.layout import results_dir
from repro.runs.published import read_results
from repro.spec import RunSpec, SpecError
from repro.study import run as study_run
from repro.study import table as table_module
from repro.study.archive import read_archive, write_archive
from repro.study.asked import asked_runs, study_profiles
from repro.study.spec import archive_of, lenders, load_study, owner, varied
from repro.study.table import outcome_table
from tests.support.ledger import write_run

STUDIES = sorted(
    path.stem for path in Path(__file__).resolve().parents[2].glob("specs/studies/*.yaml")
)


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_a_study_is_a_profile(name: str) -> None:
    loaded = load_study(name)
    for label, variant in loaded.variants.items():
        runs = pretrain_runs(varied(loaded, variant), variant=label, poisoned=variant.poisoned)
        assert {run.seed for run in runs} == set(variant.seeds)
        assert all(run.run_id.startswith(label) for run in runs)


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
    data, poisoned = Path("data/mini"), Path("poisoned/mini")
    stores = {data / "evaluation": data_settings(base)}
    stores |= {poisoned / dataset: poison_settings(base) for dataset in loaded.datasets}
    for folder, settings in stores.items():
        folder.mkdir(parents=True)
        write_settings(folder, settings)
    assert study_run.variant_folders(loaded, base) == (data, poisoned)

    for folder, settings in stores.items():
        write_settings(folder, settings | {"target_class": "star"})
        with pytest.raises(SpecError, match=f"{folder}: made with target_class: 'star'"):
            study_run.variant_folders(loaded, base)
        write_settings(folder, settings)
    assert study_run.variant_folders(loaded, base) == (data, poisoned)


def test_the_table_gives_start_best_and_end_of_every_training_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the higher rate the second evaluation reaches the threshold at a quarter of the accuracy
    lost, and the last one is worse; at the lower rate none does.
    """
    loaded = load_study("regime")
    label, variant = next(iter(loaded.variants.items()))
    profile = varied(loaded, variant.model_copy(update={"seeds": [0, 1]}))
    for run in pretrain_runs(profile, "cc6m", "mmcl", variant=label):
        write_run(tmp_path, run, [(0.0, 0.0), (0.25 * (1 + run.seed), 1.0)])
    runs = clean_runs(profile, "cc6m", "mmcl", variant=label)
    rates = sorted({run.schedule.learning_rate for run in runs})
    for run in runs:
        if run.clean_size == "100k" and run.loss == "mmcl_ssl" and run.seed == 0:
            last = (0.25, 0.0) if run.schedule.learning_rate == rates[-1] else (0.4, 0.5)
            middle = (0.3, 0.02) if last[1] == 0 else (0.39, 0.6)
            write_run(tmp_path, run, [(0.4, 0.9), middle, last])
    archive = tmp_path / "regime.jsonl.gz"
    made = [(record, rows) for _, record, rows in read_results(tmp_path / "results")]
    write_archive(archive, made)
    monkeypatch.setattr(table_module, "archive_of", lambda name: archive)

    lines = [line for line in outcome_table("regime").splitlines() if f"| {label} |" in line]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert len(cells) == 1 + len(rates)
    assert (*cells[0][2:4], cells[0][5]) == ("cc6m-mmcl", "pre-training", "0, 1")
    assert cells[0][8] == "25.0 / 100.0; 50.0 / 100.0"
    assert cells[1][3] == f"mmcl_ssl, 100k, {rates[0]:g}" and cells[1][7] == "none"
    assert cells[-1][3] == f"mmcl_ssl, 100k, {rates[-1]:g}" and cells[-1][6].startswith("40.0 / ")
    assert cells[-1][7].startswith("30.0 / ") and cells[-1][7].endswith("(25.0%)")
    assert cells[-1][8].startswith("25.0 / 0.0")


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


def test_a_study_goes_on_from_its_archive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh checkout, archived runs count as published, and whatever is archived anew holds
    them too.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        study_run, "variant_folders", lambda part, profile: (Path("data"), Path("poisoned"))
    )
    asked: list[str] = []

    def run_all(
        specs: list[RunSpec], inputs: object, results: Path, kept: list[RunSpec], models: set[Path]
    ) -> None:
        assert {spec.seed for spec in kept} == set(loaded.variants["default"].seeds)
        for spec in specs:
            if not (results_dir(spec, results) / spec.run_id / "run.json").exists():
                asked.append(spec.run_id)

    monkeypatch.setattr(study_run, "run_all", run_all)
    Path("specs").symlink_to(root / "specs")
    loaded = load_study("seeds")
    small = loaded.model_copy(update={"stages": ["pretrain"], "datasets": ["cc6m"]})
    for spec in asked_runs(small, study_profiles(small), "default", "pretrain"):
        write_run(tmp_path, spec, [(0.25, 0.75)])
    made = [(record, rows) for _, record, rows in read_results(Path("results/mini"))]
    write_archive(archive_of("seeds"), made)
    shutil.rmtree("results/mini")
    monkeypatch.setattr(study_run, "load_study", lambda name: small)
    study_run.run_study("seeds")
    assert asked == [] and read_archive(archive_of("seeds")) == made


def test_a_lender_that_trains_again_leaves_its_archive_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is the output of the lender's own stage, and holds cleaning runs of the models
    that it had.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        study_run, "variant_folders", lambda part, profile: (Path("data"), Path("poisoned"))
    )

    def run_all(
        specs: list[RunSpec], inputs: object, results: Path, kept: list[RunSpec], models: set[Path]
    ) -> None:
        for spec in specs:
            trained = write_run(Path("trained"), spec, [(0.5, 0.5)])
            shutil.copytree(trained, results_dir(spec, results) / spec.run_id, dirs_exist_ok=True)
            shutil.rmtree(trained)

    monkeypatch.setattr(study_run, "run_all", run_all)
    Path("specs").symlink_to(root / "specs")
    spec, *_ = pretrain_runs(
        varied(load_study("seeds"), load_study("seeds").variants["default"]),
        "cc6m",
        variant="default",
    )
    write_run(tmp_path, spec, [(0.25, 0.75)])
    write_archive(
        archive_of("seeds"),
        [(record, rows) for _, record, rows in read_results(Path("results/mini"))],
    )
    before = archive_of("seeds").read_bytes()
    for name in ("data/evaluation", "data/synonyms.json", "poisoned/cc3m", "poisoned/cc6m"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    study_run.run_study("cleaning")
    (retrained,) = {rows[-1].accuracy for _, _, rows in read_results(Path("work/studies/seeds"))}
    assert retrained == pytest.approx(0.5, abs=0.02) and archive_of("seeds").read_bytes() == before
    assert read_archive(archive_of("cleaning")) != []


def test_a_damaged_archive_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"run": {}, "rows": []}\n'))
    with pytest.raises(LedgerError, match=r"x\.jsonl\.gz:1: "):
        read_archive(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(LedgerError, match=r"x\.jsonl\.gz: unreadable"):
        read_archive(path)


def test_models_of_a_variant_are_trained_by_one_study() -> None:
    assert owner("default") == "seeds" and owner("unpoisoned") == "control"
    with pytest.raises(SpecError, match="trained by no study"):
        owner("nobody")


def test_a_lender_trains_the_seeds_that_are_asked_for() -> None:
    borrower = load_study("control")
    small = borrower.variants["default"].model_copy(update={"seeds": [12]})
    asked = lenders(borrower.model_copy(update={"variants": {"default": small}}))
    assert {
        of: {name: variant.seeds for name, variant in lent.items()} for of, lent in asked.items()
    } == {"seeds": {"default": [12]}}


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
    inputs = study_run._inputs(study, profiles)

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
