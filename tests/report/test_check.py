"""`check`: own runs made of archived ones, then altered as another machine, or a hand, would."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repro.cli import main
from repro.ledger import LedgerError, Row, identity_of
from repro.profile import clean_runs, load_profile
from repro.report.check import check, sentence_of
from repro.report.evidence import folder_of
from repro.runs.published import RECORD, ROWS, rows_text
from repro.study.archive import read_archive, unpack_run, write_archive
from repro.study.spec import archive_of
from tests.support.ledger import ROOT, write_run

STUDY, SEED = "confirmation", 15


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An own run of `mini`: the archived runs of its seed, and made-up ones of the other losses."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(ROOT / "specs", root / "specs")
    archive = root / archive_of(STUDY)
    archive.parent.mkdir(parents=True)
    shutil.copy(ROOT / archive_of(STUDY), archive)

    models = {}
    for record, rows in read_archive(archive):
        if record.spec.variant == "confirmed" and record.spec.seed == SEED:
            spec = record.spec.model_copy(update={"variant": ""})
            changes = identity_of(spec, record.fingerprint) | {"seconds": 1.0}
            own = [row.model_copy(update=changes) for row in rows]
            folder = root / folder_of(spec)
            unpack_run(record.model_copy(update={"spec": spec}), own, folder)
            seal(folder)
            models[spec.model_name] = record.inputs.get("model", record.model_hash)
    for spec in clean_runs(load_profile("mini", root / "specs")):
        if spec.loss != "mmcl_ssl":
            folder = write_run(root, spec, [(0.4, 0.9), (0.3, 0.5)])
            model = {"model": models[spec.model_name]}
            edit(folder / RECORD, partial(update, "inputs", model))
    return root


@pytest.fixture
def own(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this folder that a test may change; it is the working folder."""
    folder = tmp_path / "own"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file, or each line of one of rows, in place."""
    text = path.read_text()
    changed = ""
    for part in text.splitlines() if path.name == ROWS else [text]:
        content = json.loads(part)
        change(content)
        changed += json.dumps(content) + "\n"
    path.write_text(changed)


def update(field: str, changes: dict[str, Any], content: dict[str, Any]) -> None:
    """Update a field that is a mapping."""
    content[field].update(changes)


def seal(folder: Path) -> None:
    """Write the rows of a run as the package would, and make the record fit them."""
    lines = (folder / ROWS).read_text().splitlines()
    text = rows_text([Row.model_validate_json(line) for line in lines])
    (folder / ROWS).write_bytes(text)
    edit(folder / RECORD, partial(update, "files", {ROWS: hashlib.sha256(text).hexdigest()}))


def folders(own: Path, part: str = "") -> list[Path]:
    """Folders of the own run that have a counterpart in the archive."""
    paths = sorted(path.parent for path in (own / "results/mini").rglob("archived"))
    return [path for path in paths if part in path.as_posix()]


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str, ends_with: int = 0) -> str:
    """What `check` prints, after it ended with this code."""
    capsys.readouterr()
    assert main(["check", *arguments]) == ends_with
    return capsys.readouterr().out


def round_otherwise(folder: Path) -> None:
    """Change a run as another kind of processor would."""
    edit(folder / ROWS, lambda row: row.update(logit_scale=row["logit_scale"] * 1.0001))
    seal(folder)


def test_archived_runs_are_equal_bit_for_bit(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = (
        "profile mini: 46 of 46 runs equal the archived ones, bit for bit; "
        "10 others have no archived counterpart."
    )
    assert said_by(capsys, "mini") == sentence + "\n"
    assert sentence_of("mini") == sentence

    found = json.loads(said_by(capsys, "mini", "--json"))
    assert found["seeds"] == [SEED]
    assert found["counterparts"] == 46
    assert found["problems"] == []


def test_a_row_altered_by_hand_is_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders(own, "clean")[0]
    name = folder.relative_to(own)
    edit(folder / ROWS, lambda row: row.update(num_correct=row["num_correct"] + 1))
    out = said_by(capsys, "mini", ends_with=1)
    assert f"{name}/{ROWS}: missing, or not the file" in out

    # With a hash that fits, and rows that say nothing wrong by themselves.
    seal(folder)
    out = said_by(capsys, "mini", ends_with=1)
    assert f"{name}: row 0: num_correct: " in out
    assert "(archive: " in out


def test_another_machine_is_judged_by_the_spread_of_the_seeds(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders(own):
        round_otherwise(folder)
    out = said_by(capsys, "mini")
    assert "up to rounding: 0 of 46 runs are equal bit for bit" in out
    assert "| asr_left_at_rate | cc6m-200k | difference |" in out

    for folder in folders(own, "clean/cc6m-mmcl/"):
        edit(folder / ROWS, lambda row: row.update(num_attacked=row["num_images"] * 9 // 10))
        seal(folder)
    out = said_by(capsys, "mini", ends_with=1)
    assert "asr_left_at_rate of mmcl, cc6m-200k: 0.900 (archived seeds: " in out


def test_another_machine_whose_runs_cannot_be_measured_is_not_passed(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a contributed study whose settings no verdict has."""
    for folder in folders(own):
        round_otherwise(folder)
    monkeypatch.setattr("repro.report.check._measures", lambda *_: [])
    assert len(check("mini").problems) == 46


def test_runs_that_are_kept_are_what_others_with_this_processor_are_compared_with(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders(own):
        edit(folder / RECORD, partial(update, "environment", {"device": "another"}))
        round_otherwise(folder)
    kept = "results/replicates/another.jsonl.gz"
    said_by(capsys, "mini", "--keep", "a kind", ends_with=2)
    assert f"{kept}: written" in said_by(capsys, "mini", "--keep", "another")
    said_by(capsys, "mini", "--keep", "another", ends_with=2)
    assert "56 of 56 runs equal the archived ones" in said_by(capsys, "mini")

    # The archive itself is held against the runs of the other processor.
    out = said_by(capsys, kept)
    assert "0 of 46 runs are equal" in out
    assert "archive AMD EPYC" in out
    assert "another" in out


def test_a_run_that_lacks_or_is_of_other_settings_is_named(own: Path) -> None:
    lost, other, foreign = folders(own, "clean")[:3]
    shutil.rmtree(lost)
    edit(other / RECORD, lambda of: of["spec"]["schedule"].update(epochs=3))
    edit(foreign / RECORD, lambda of: of["inputs"].update(model="0123456789abcdef"))

    found = check("mini")

    assert found.counterparts == 43
    assert found.equal == 43
    assert f"{lost.relative_to(own)}/run.json: missing" in found.problems
    problems = str(found.problems)
    assert f"{foreign.relative_to(own)}: cleaned a model that no run here has" in problems
    assert "made with another specification" in problems


def test_an_archive_is_held_against_the_others(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = read_archive(archive_of(STUDY))
    contributed = tmp_path / "confirmation.jsonl.gz"
    write_archive(contributed, runs[:-1])
    found = check(str(contributed))
    assert found.counterparts == len(runs) - 1
    assert found.equal == len(runs) - 1
    (problem,) = found.problems
    _, _, says = problem.partition(": ")
    assert says.startswith("lacks the run ")

    # A copy of one training under two seeds.
    record, rows = next(run for run in runs if run[0].model_hash)
    twin = record.spec.model_copy(update={"seed": 24})
    names = identity_of(twin, record.fingerprint)
    rows = [row.model_copy(update=names) for row in rows]
    files = record.files | {ROWS: hashlib.sha256(rows_text(rows)).hexdigest()}
    copied = record.model_copy(update={"spec": twin, "files": files})
    write_archive(contributed, [*runs, (copied, rows)])
    problems = check(str(contributed)).problems
    assert any("seeds 15, 24: the same weights" in line for line in problems)

    out = said_by(capsys, str(archive_of(STUDY)))
    assert "920 runs are whole; no archived run has their settings" in out


def test_what_cannot_be_compared_ends_with_2(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said_by(capsys, "smoke", ends_with=2)
    assert "profile smoke: has no archive (profiles with one: mini)" in out
    assert sentence_of("smoke") == ""
    said_by(capsys, "minii", ends_with=2)

    output = {"path": str(archive_of(STUDY)), "md5": "0" * 32}
    lock = {"stages": {STUDY: {"outs": [output]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    out = said_by(capsys, "mini", ends_with=2)
    assert "not the file that is known to dvc.lock" in out
    Path("dvc.lock").unlink()

    torn = Path("confirmation.jsonl.gz")
    torn.write_bytes(archive_of(STUDY).read_bytes()[:1000])
    said_by(capsys, str(torn), ends_with=2)

    shutil.rmtree("results/mini")
    with pytest.raises(LedgerError, match=r"results/mini: no runs; .make reproduce PROFILE=mini"):
        check("mini")
