"""Files of a run are checked when they are taken up, and made again where they are damaged."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repro import files, worker
from repro.ledger import LedgerError, pending_rows
from repro.profile import clean_runs, pretrain_runs
from repro.runs.again import reopen
from repro.runs.deliver import deliver, is_delivered
from repro.runs.layout import content_hash, model_dir, results_dir
from repro.runs.published import read_record, read_run, write_record
from repro.runs.run import LaunchError, Run, check_model, identify
from repro.spec import Profile, RunSpec
from tests.support.finished import finished_run, flip

RESULTS = Path("results")
NEW, OLD = "f" * 16, "0" * 16


@pytest.fixture
def run(profile: Profile, here: Path) -> Run:
    """A pre-training that has ended and is delivered."""
    made = finished_run(pretrain_runs(profile, "cc3m", "mmcl")[0])
    assert deliver(made, RESULTS)
    assert is_delivered(made, RESULTS)
    return made


def folder_of(run: Run) -> Path:
    return results_dir(run.spec, RESULTS) / run.spec.run_id


def edit_row(folder: Path) -> None:
    """Another number of right images in the last row."""
    lines = (folder / "rows.jsonl").read_text().splitlines()
    lines[-1] = lines[-1].replace('"num_correct":1', '"num_correct":3')
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a row edited by hand": edit_row,
    "rows cut": lambda folder: os.truncate(folder / "rows.jsonl", 700),
    "rows gone": lambda folder: (folder / "rows.jsonl").unlink(),
    "record cut": lambda folder: os.truncate(folder / "run.json", 500),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_remade(run: Run, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    folder = folder_of(run)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGES[damage](folder)
    with pytest.raises(LedgerError, match=str(folder)):
        read_run(folder)
    capsys.readouterr()
    assert not is_delivered(run, RESULTS)
    assert f"{folder}" in capsys.readouterr().out
    reopen(run)
    assert deliver(run, RESULTS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_byte_changed_anywhere_in_what_a_run_published_is_found(run: Run) -> None:
    model = model_dir(run.spec)
    paths = [p for f in (folder_of(run), model) for p in f.iterdir() if p.name != "run.json"]
    assert len(paths) == 3
    rng = random.Random(0)
    for _ in range(200):
        path = rng.choice(paths)
        content = path.read_bytes()
        flip(path, rng.randrange(len(content)), rng.randrange(8))
        assert not is_delivered(run, RESULTS), path
        path.write_bytes(content)
    assert is_delivered(run, RESULTS)


@pytest.mark.parametrize("name", ["rows.jsonl", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("harm", [lambda path: flip(path, 3), Path.unlink], ids=["flip", "lose"])
def test_damage_in_the_work_folder_makes_the_run_again_with_a_line(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, harm: Callable[[Path], None]
) -> None:
    shutil.rmtree(folder_of(run))
    shutil.rmtree(model_dir(run.spec))
    harm(run.work_dir / name)
    capsys.readouterr()
    reopen(run)
    told = capsys.readouterr().out
    assert str(run.work_dir / name) in told
    assert "it is made again" in told
    assert run.finished() is None
    assert not deliver(run, RESULTS)
    assert not folder_of(run).exists()


def test_a_run_that_begins_again_goes_on_from_no_checkpoint(run: Run) -> None:
    """A kill at its very end may have left one."""
    for name in ("checkpoint-12", "cleaned.safetensors"):
        (run.work_dir / name).touch()
    run.discard()
    assert not [*run.work_dir.glob("checkpoint-*"), *run.work_dir.glob("*.safetensors")]


@pytest.mark.parametrize("name", ["record.json", "outcome.json", "spec.json"])
def test_a_damaged_file_is_absent(run: Run, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = run.work_dir / name
    read = {"record.json": run.finished, "outcome.json": run.outcome}
    for content in (b"", b"garbage", b"[]", b"\xff\xfe", path.read_bytes()[:-9]):
        path.write_bytes(content)
        capsys.readouterr()
        assert read.get(name, lambda: files.read_json(path))() is None
        assert str(path) in capsys.readouterr().out


def test_a_model_that_another_run_left_is_delivered_again(run: Run) -> None:
    weights = model_dir(run.spec) / "model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(b"weights of another objective")
    assert not is_delivered(run, RESULTS)
    assert is_delivered(run, RESULTS, models=False)
    assert deliver(run, RESULTS)
    assert weights.read_bytes() == right


def cleaning(profile: Profile) -> RunSpec:
    return clean_runs(profile, "cc3m", "mmcl")[0]


def test_a_start_model_is_the_one_that_its_record_tells(run: Run, profile: Profile) -> None:
    spec = cleaning(profile)
    folder = model_dir(run.spec)
    found = identify(spec, {"model": folder}, NEW)
    record, _ = read_run(folder_of(run))
    assert found.inputs["model"]["hash"] == record.model_hash == content_hash(folder)

    flip(folder / "model.safetensors", 2)
    with pytest.raises(LaunchError, match=r"its weights are not those of the run.*pretrain"):
        identify(spec, {"model": folder}, NEW)
    flip(folder / "model.safetensors", 2)
    (folder / "run.json").unlink()
    with pytest.raises(LaunchError, match=r"run\.json: missing"):
        identify(spec, {"model": folder}, NEW)


def test_the_whole_model_of_another_objective_is_refused(run: Run, profile: Profile) -> None:
    other = finished_run(pretrain_runs(profile, "cc3m", "mmcl_ssl")[0])
    assert deliver(other, RESULTS)
    shutil.rmtree(model_dir(run.spec))
    shutil.copytree(model_dir(other.spec), model_dir(run.spec))
    with pytest.raises(LaunchError, match=r"its weights are not those of the run of cc3m-mmcl in"):
        check_model(cleaning(profile), model_dir(run.spec), content_hash(model_dir(run.spec)))


def test_a_worker_loads_the_planned_model_alone(run: Run, profile: Profile, tmp_path: Path) -> None:
    resident = worker.Resident(tmp_path / "cache", torch.device("cpu"))
    folder = model_dir(run.spec)
    planned = {"model": {"path": folder.as_posix(), "hash": content_hash(folder)}}
    flip(folder / "model.safetensors", 1)
    files._sha256.cache_clear()
    with pytest.raises(ValueError, match=r"the model that the run was planned with"):
        resident.start_model(cleaning(profile), planned)


def test_a_damaged_row_makes_a_run_begin_anew(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.work_dir / "checkpoint-2").touch()
    flip(run.work_dir / "rows.jsonl", 0)
    worker._begin_attempt(run.work_dir, run.code)
    assert "the run begins again" in capsys.readouterr().out
    assert pending_rows(run.work_dir) == []
    assert list(run.work_dir.glob("checkpoint-*")) == []


def test_reading_whether_a_run_is_delivered_writes_nothing(run: Run) -> None:
    """A threshold of the report changed: the run counts, and only `refresh` rewrites its record."""
    evaluate = run.spec.evaluate.model_copy(update={"asr_cap": 0.5})
    spec = run.spec.model_copy(update={"evaluate": evaluate})
    before = (folder_of(run) / "run.json").read_bytes()
    assert is_delivered(identify(spec, {"pairs": Path("pairs")}, run.code), RESULTS)
    assert (folder_of(run) / "run.json").read_bytes() == before


def test_a_record_without_hashes_is_read_and_not_taken_for_whole(run: Run) -> None:
    path = folder_of(run) / "run.json"
    write_record(path, read_record(path).model_copy(update={"files": {}}))
    assert read_run(folder_of(run))[0].files == {}
    assert not is_delivered(run, RESULTS)


def test_an_attempt_by_other_code_begins_again(run: Run) -> None:
    def rows_left(code: str) -> int:
        worker._begin_attempt(run.work_dir, code)
        return len(pending_rows(run.work_dir))

    assert rows_left(OLD) == rows_left(OLD) > 0
    assert rows_left(NEW) == 0
