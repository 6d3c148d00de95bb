"""Fingerprints: the specification, what a run reads of its inputs, and the version of the results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repro.data.images import encode_png
from repro.data.shards import ShardWriter, write_store
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs import run as runs
from repro.runs import version
from repro.runs.inputs import input_hash
from repro.runs.run import LaunchError, fingerprint_of, identify
from repro.spec import Profile, RunSpec
from repro.study.archive import read_archive
from repro.unchanged import CODE, code_digest


@pytest.fixture
def profile(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.chdir(tmp_path)
    return load_profile("smoke", root / "specs")


@pytest.fixture
def pretraining(profile: Profile) -> RunSpec:
    return pretrain_runs(profile, "cc3m", "mmcl")[0]


@pytest.fixture
def cleaning(profile: Profile) -> RunSpec:
    return next(run for run in clean_runs(profile, "cc3m", "mmcl") if run.clean_size == "100k")


def write_pairs(folder: Path, captions: str = "abcd", **rows: list[int]) -> Path:
    """A store of four rows with lists of rows."""
    folder.mkdir(parents=True)
    writer = ShardWriter(folder)
    for number, caption in enumerate(captions):
        writer.add(encode_png(np.full((4, 4, 3), number, np.uint8)), "png", caption)
    write_store(folder, *writer.close())
    lists = {"train": [0, 1, 2, 3], "100k": [1], "200k": [1, 2], "poisoned": [0]} | rows
    np.savez(folder / "rows.npz", **{name: np.array(row) for name, row in lists.items()})
    return folder


def test_a_store_counts_by_its_content_wherever_it_lies(pretraining: RunSpec) -> None:
    one, deep = write_pairs(Path("one")), write_pairs(Path("a/much/deeper"))
    (deep / "settings.json").write_text("{}")
    assert input_hash(one, pretraining) == input_hash(deep, pretraining)
    assert input_hash(one, pretraining) != input_hash(write_pairs(Path("x"), "abce"), pretraining)


def test_only_the_rows_that_a_run_reads_count(pretraining: RunSpec, cleaning: RunSpec) -> None:
    def equal(spec: RunSpec, name: str, **rows: list[int]) -> bool:
        return input_hash(write_pairs(Path(name), **rows), spec) == input_hash(base, spec)

    base = write_pairs(Path("base"))
    assert equal(pretraining, "p1", **{"100k": [3], "poisoned": [2]})
    assert not equal(pretraining, "p2", train=[0, 1, 2])
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

    monkeypatch.setattr(runs, "results_version", lambda: 10**6)
    assert identify(pretraining, {"pairs": Path("pairs")}, "old").fingerprint != first.fingerprint
    monkeypatch.undo()
    Path("pairs").write_text("other")
    assert identify(pretraining, {"pairs": Path("pairs")}, "old").fingerprint != first.fingerprint


@pytest.fixture
def package(tmp_path: Path) -> Path:
    shutil.copytree(CODE, tmp_path / "repro", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "repro"


EDITS: dict[str, tuple[str, Callable[[str], str], bool]] = {
    "a comment": ("train/schedule.py", lambda text: f"# why\n{text}", False),
    "a docstring": ("train/schedule.py", lambda text: text.replace('"""', '"""New. ', 1), False),
    "a statement": ("train/schedule.py", lambda text: f"{text}\nMORE = 1\n", True),
    "a file in the middle of an edit": ("train/schedule.py", lambda text: f"{text}\ndef (", True),
    "the report": ("report/format.py", lambda text: f"{text}\nMORE = 1\n", False),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_digest_of_the_code_follows_what_makes_digits(package: Path, edit: str) -> None:
    name, change, counts = EDITS[edit]
    before = code_digest(package)
    assert before == code_digest()
    (package / name).write_text(change((package / name).read_text()))
    assert (code_digest(package) != before) is counts


def test_the_code_is_accepted() -> None:
    """`python -m repro accept` compares the digits of `smoke`; where they are meant to change,
    raise `version`.
    """
    assert code_digest() in version.accepted_codes(), version.code_notice()


def test_runs_of_code_that_nobody_accepted_are_counted(pretraining: RunSpec) -> None:
    Path("pairs").write_text("pairs")
    made = [identify(pretraining, {"pairs": Path("pairs")}, code) for code in "aab"]
    records = [run.record({"status": "completed"}, None) for run in made]
    known = made[0].record(
        {"status": "completed", "code": next(iter(version.accepted_codes()))}, None
    )
    assert version.unaccepted_runs([*records, known]) == {"a": 2, "b": 1}


def test_equal_results_differ_in_times_and_names_only(tmp_path: Path) -> None:
    def write(root: Path, weights: bytes, **changes: object) -> Path:
        folder = root / "results/smoke/pretrain/cc3m-mmcl/seed0"
        folder.mkdir(parents=True)
        row = {"num_images": 3, "num_correct": 3, "seconds": 1.0, "loss": float("nan")}
        (folder / "rows.jsonl").write_text(json.dumps(row | changes) + "\n")
        np.savez(folder / "bits.npz", correct=np.zeros(3, np.uint8))
        (folder / "run.json").touch()
        model = root / "models/smoke/cc3m-mmcl/seed0/model.safetensors"
        model.parent.mkdir(parents=True)
        model.write_bytes(weights)
        return root

    old = write(tmp_path / "old", b"weights")
    same = write(tmp_path / "same", b"weights", seconds=9.0, fingerprint="g", validation=None)
    other = write(tmp_path / "other", b"Weights", num_correct=4)
    assert list(version.compare(old, same)) == []
    assert [line.partition(":")[0] for line in version.compare(old, other)] == [
        "models/smoke/cc3m-mmcl/seed0/model.safetensors, row 0",
        "results/smoke/pretrain/cc3m-mmcl/seed0/rows.jsonl, row 0",
    ]


def test_archived_runs_have_the_fingerprints_of_today(root: Path) -> None:
    """A field with a default, or another name, must not make them stale."""
    archives = sorted((root / "results/studies").glob("*.jsonl.gz"))
    assert archives
    for archive in archives:
        for record, _ in read_archive(archive):
            assert fingerprint_of(record.spec, record.inputs) == record.fingerprint, archive
