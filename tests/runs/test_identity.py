"""Fingerprints of runs: specification, inputs, version of results; the commit of a record."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import repro
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs import machine
from repro.runs import run as runs
from repro.runs.inputs import input_hash
from repro.runs.machine import WRITTEN, commit_state
from repro.runs.run import LaunchError, fingerprint_of, identify
from repro.spec import RunSpec
from repro.study.archive import read_archive
from tests.support.checkout import commit
from tests.support.evaluation import write_rows


@pytest.fixture
def pretraining(here: Path) -> RunSpec:
    return pretrain_runs(load_profile("smoke"), "cc3m", "mmcl")[0]


@pytest.fixture
def cleaning(here: Path) -> RunSpec:
    runs = clean_runs(load_profile("smoke"), "cc3m", "mmcl")
    return next(run for run in runs if run.clean_size == "100k")


def write_pairs(folder: Path, captions: str = "abcd", **rows: list[int]) -> Path:
    """A store of four rows with lists of rows."""
    images = (np.full((4, 4, 3), number, np.uint8) for number in range(len(captions)))
    write_rows(folder, zip(images, captions, [-1] * 4, strict=True))
    lists = {"train": [0, 1, 2, 3], "100k": [1], "200k": [1, 2], "poisoned": [0]} | rows
    np.savez(folder / "rows.npz", **{name: np.array(row) for name, row in lists.items()})
    return folder


def test_a_store_counts_by_its_content_wherever_it_lies(pretraining: RunSpec) -> None:
    one = write_pairs(Path("one"))
    deep = write_pairs(Path("a/much/deeper"))
    (deep / "settings.json").write_text("{}")
    assert input_hash(one, pretraining) == input_hash(deep, pretraining)
    assert input_hash(one, pretraining) != input_hash(write_pairs(Path("x"), "abce"), pretraining)


def test_only_the_rows_that_a_run_reads_count(pretraining: RunSpec, cleaning: RunSpec) -> None:
    def equal(spec: RunSpec, name: str, **rows: list[int]) -> bool:
        return input_hash(write_pairs(Path(name), **rows), spec) == input_hash(base, spec)

    base = write_pairs(Path("base"))
    assert equal(pretraining, "p1", **{"100k": [3], "poisoned": [2]})
    assert not equal(pretraining, "p2", train=[0, 1, 2])
    chosen = pretraining.model_copy(update={"second_view": "clean"})
    assert not equal(chosen, "p3", poisoned=[2])
    assert equal(chosen, "p4", **{"100k": [3]})
    assert equal(cleaning, "c1", **{"200k": [3], "poisoned": [2], "train": [1]})
    assert not equal(cleaning, "c2", **{"100k": [3]})


def test_a_changed_store_is_hashed_anew_in_the_same_process(pretraining: RunSpec) -> None:
    folder = write_pairs(Path("store"))
    before = input_hash(folder, pretraining)
    shutil.rmtree(folder)
    assert input_hash(write_pairs(folder, "dcba"), pretraining) != before


def test_a_missing_input_is_named(cleaning: RunSpec) -> None:
    with pytest.raises(LaunchError, match=r"poisoned/smoke/cc3m: missing \(input `pairs`"):
        identify(cleaning, {"pairs": Path("poisoned/smoke/cc3m")}, "code")


def test_version_and_inputs_are_identity_and_code_and_names_are_none(
    pretraining: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pairs").write_text("pairs")
    first = identify(pretraining, {"pairs": Path("pairs")}, "old")
    named = pretraining.model_copy(update={"variant": "twin"})
    assert identify(named, {"pairs": Path("pairs")}, "new").fingerprint == first.fingerprint

    with monkeypatch.context() as patch:
        patch.setattr(runs, "VERSION", 10**6)
        other = identify(pretraining, {"pairs": Path("pairs")}, "old")
    assert other.fingerprint != first.fingerprint
    Path("pairs").write_text("other")
    assert identify(pretraining, {"pairs": Path("pairs")}, "old").fingerprint != first.fingerprint


def test_archived_runs_have_the_fingerprints_of_today(root: Path) -> None:
    """A field with a default, or another name, must not make them stale."""
    archives = sorted((root / "results/studies").glob("*.jsonl.gz"))
    assert archives
    for archive in archives:
        for record, _ in read_archive(archive):
            assert fingerprint_of(record.spec, record.inputs) == record.fingerprint, archive


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a package and of all that the commands write, as the imported one."""
    archive = "results/studies/seeds.jsonl.gz"
    for name in ("repro/__init__.py", "specs/mini.yaml", archive, *WRITTEN):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_text("as committed\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path)
    monkeypatch.setattr(repro, "__file__", str(tmp_path / "repro/__init__.py"))
    return tmp_path


def test_what_the_commands_write_is_no_edit(clone: Path) -> None:
    """As in a fresh clone, where DVC has written dvc.lock after the first stage."""
    assert commit_state()[1] is False
    for name in (*WRITTEN, "results/studies/seeds.jsonl.gz"):
        if (clone / name).is_file():
            (clone / name).write_text("written by a stage\n")
    (clone / "results/mini").mkdir()
    (clone / "results/mini/rows.jsonl").write_text("untracked\n")
    name, dirty = commit_state()
    assert name is not None
    assert len(name) == 40
    assert dirty is False
    shutil.rmtree(clone / ".git")
    assert commit_state() == (None, False)

    # Unpacked below the folder of another project, whose commit is not the code's.
    (clone / "theirs").write_text("their file\n")
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    subprocess.run(["git", "add", "theirs"], cwd=clone, check=True)
    author = ["-c", "user.name=they", "-c", "user.email=they@example.org"]
    subprocess.run(["git", *author, "commit", "-qm", "theirs"], cwd=clone, check=True)
    assert commit_state() == (None, False)


def test_a_checkout_of_another_user_is_told_with_gits_remedy(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.commit_notice() == ""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert commit_state() == (None, False)
    assert "git config --global --add safe.directory" in machine.commit_notice()


@pytest.mark.parametrize("name", ["repro/__init__.py", "specs/mini.yaml"])
def test_an_edit_of_code_or_specification_is_told(clone: Path, name: str) -> None:
    (clone / name).write_text("edited\n")
    assert commit_state()[1] is True


def test_a_record_tells_the_model_of_a_processor_that_hides_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a virtual machine."""
    told = {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "17", "stepping": "1"}
    told |= {"model name": "AMD EPYC", "(?:flags|Features)": "fma avx2 sse"}
    monkeypatch.setattr(machine, "_field", lambda pattern, name: told.get(name, ""))
    found = machine.environment()
    assert found["device"] == "AMD EPYC"
    assert found["processor"] == "AuthenticAMD 25 17 1"
    assert found["instructions"] == "avx2 fma"
