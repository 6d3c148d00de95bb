"""A study in several sittings: its rows lie in git, its models do not, and a new checkout goes on."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from repro.launch.driver import run_all
from repro.spec import SpecError
from repro.study import run as study_run
from repro.study.archive import read_archive
from repro.study.spec import archive_of
from tests.support.launch import started
from tests.support.ledger import study_spec

LENDER = json.loads(study_spec({"default": {}}, profile="smoke").model_dump_json())
VARIANT = LENDER["variants"]["default"] | {"pretrain_objectives": ["mmcl"], "seeds": [1]}
LENDER["variants"] = {"default": VARIANT}


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two studies, of which one cleans the other's models, and data for both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("REPRO_SLOTS", "2")
    monkeypatch.setattr(study_run, "run_all", partial(run_all, worker="tests.support.stub_worker"))
    folders = (Path("data"), Path("poisoned"))
    monkeypatch.setattr(study_run, "variant_folders", lambda part, profile: folders)

    shutil.copytree(root / "specs", "specs", ignore=lambda *_: ["studies"])
    Path("specs/studies").mkdir()
    write_study("lends", LENDER)
    longer = VARIANT | {"models": "default", "overrides": {"clean.epochs": 3}}
    borrower = {"stages": ["clean"], "reference": "longer", "variants": {"longer": longer}}
    write_study("borrows", LENDER | borrower)

    for name in ("data/evaluation", "data/synonyms.json", "poisoned/cc3m"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("behaviour.json").write_text("{}")
    return tmp_path


def write_study(name: str, content: dict[str, object]) -> None:
    Path(f"specs/studies/{name}.yaml").write_text(json.dumps(content))  # JSON is YAML


def new_checkout() -> None:
    """What git does not keep is gone."""
    for name in ("work", "models", "sacred"):
        shutil.rmtree(name, ignore_errors=True)


def with_seeds(seeds: list[int]) -> dict[str, object]:
    return LENDER | {"variants": {"default": VARIANT | {"seeds": seeds}}}


def test_archived_seeds_are_not_trained_again_for_a_new_one(folder: Path) -> None:
    """A model of which one cleaning run is missing is trained again."""
    study_run.run_study("lends")
    assert len(started()) == 3  # one model, cleaned at two rates
    before = read_archive(archive_of("lends"))

    new_checkout()
    write_study("lends", with_seeds([1, 2]))
    study_run.run_study("lends")
    after = read_archive(archive_of("lends"))
    assert sorted(started()) == sorted(run.spec.run_id for run, _ in after if run.spec.seed == 2)
    assert all(item in after for item in before)

    (gone,) = (item for item in before[:1])
    assert gone[0].spec.stage == "clean"
    study_run.write_archive(archive_of("lends"), [item for item in after if item != gone])
    new_checkout()
    study_run.run_study("lends")
    (model,) = (run.spec for run, _ in before if run.spec.stage == "pretrain")
    assert started() == [model.run_id, gone[0].spec.run_id]


def trained_models() -> list[str]:
    return sorted(path.parent.name for path in Path("models").rglob("model.safetensors"))


def test_a_model_that_is_trained_by_name_removes_none_of_another_seed(folder: Path) -> None:
    write_study("lends", with_seeds([1, 2]))
    for seed in (1, 2):
        study_run.run_study("lends", seeds=[seed], models=["cc3m-mmcl"])
    assert trained_models() == ["default-seed1", "default-seed2"]


def test_a_study_removes_no_model_of_another_with_a_variant_of_its_name(folder: Path) -> None:
    for name, seed in (("lends", 1), ("other", 2)):
        write_study(name, with_seeds([seed]))
        study_run.run_study(name)
    assert trained_models() == ["default-seed1", "default-seed2"]


def with_other_models(name: str) -> None:
    """As if another kind of machine had made the archive: its trainings left other weights."""
    runs = [
        (run.model_copy(update={"model_hash": "f" * 64 if run.model_hash else ""}), rows)
        for run, rows in read_archive(archive_of(name))
    ]
    study_run.write_archive(archive_of(name), runs)


def test_a_lender_trains_no_model_whose_cleaning_is_archived(folder: Path) -> None:
    """Not even one that was trained on another machine."""
    study_run.run_study("lends")
    study_run.run_study("borrows")
    assert len(started()) == 5
    new_checkout()
    study_run.run_study("borrows")
    assert started() == []
    with_other_models("lends")
    new_checkout()
    study_run.run_study("borrows")
    assert started() == []


def test_a_model_that_archived_cleaning_did_not_start_from_is_made_again(folder: Path) -> None:
    study_run.run_study("lends")
    started()
    with_other_models("lends")
    new_checkout()
    study_run.run_study("lends")
    (model,) = (
        run.spec for run, _ in read_archive(archive_of("lends")) if run.spec.stage == "pretrain"
    )
    # The same as before, as it turns out, so that its cleaning is of it.
    assert started() == [model.run_id]


def test_other_data_make_archived_runs_anew_but_no_archive_of_a_lender(folder: Path) -> None:
    """The archive is the output of the lender's own stage."""
    study_run.run_study("lends")
    before = sorted(started())
    content = archive_of("lends").read_bytes()
    new_checkout()
    Path("poisoned/cc3m").write_text("other")
    study_run.run_study("borrows")
    assert len(started()) == 3
    assert archive_of("lends").read_bytes() == content
    study_run.run_study("lends")
    assert len(started()) == len(before) - 1  # the model is there already


def test_one_variant_alone_brings_the_models_that_it_borrows_inside_the_study(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = VARIANT | {"models": "default", "overrides": {"clean.epochs": 3}}
    write_study("lends", LENDER | {"variants": {"default": VARIANT, "longer": longer}})
    print(study_run.due_text(study_run.due_runs("lends", [], ["longer"])))
    assert started() == []
    said = " ".join(capsys.readouterr().out.split())
    assert "default pretrain 1 not known longer clean 2 not known" in said
    assert said.endswith("3 runs, no archived run tells the core-hours")
    study_run.run_study("lends", seeds=[1], variants=["longer"])
    # The model is one training under both names.
    assert ["lr" in run for run in started()] == [False, True, True]
    print(study_run.due_text(study_run.due_runs("lends", [], [])))
    assert "2 runs, 0.0 core-hours" in capsys.readouterr().out
    with pytest.raises(SpecError, match=r"--variant: short \(allowed by .*: default, longer\)"):
        study_run.run_study("lends", variants=["short"])
