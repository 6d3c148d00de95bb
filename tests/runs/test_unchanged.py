"""Edits while something runs: no result is credited to a state that did not make it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro import unchanged as module
from repro.data import stages
from repro.launch import driver
from repro.profile import load_profile, pretrain_runs
from repro.report import build as report
from repro.runs.run import LaunchError, Run
from repro.sources import stage as sources
from repro.spec import SpecError
from repro.worker import Resident, run_one

CHANGED = "changed while the stage ran"


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with specifications and package of its own, both free to be edited."""
    for name in ("specs", "repro"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / name, tmp_path / name, ignore=ignored)
    monkeypatch.chdir(tmp_path)
    for function in (module.code_state, module.code_digest):
        assert function.__defaults__ == (module.CODE,)
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "repro",))
    return tmp_path


def edit(files: str, old: str, new: str) -> Callable[..., None]:
    """A stage's work during which the first file that has `old` is edited."""

    def work(*arguments: object, **options: object) -> None:
        for path in sorted(Path().glob(files)):
            if path.is_file() and re.search(old, path.read_text()):
                path.write_text(re.sub(old, new, path.read_text(), count=1))
                return
        raise AssertionError((files, old))

    return work


SMOKE = "specs/smoke.yaml"
DATA = (SMOKE, r"cc6m: 300", "cc6m: 250")
POISON = (SMOKE, r"patch_size: \d+", "patch_size: 4")
CODE = ("repro/data/poison.py", r"\Z", "\nMORE = 1\n")
RATES = (SMOKE, r"1\.0e-3\]", "9.0e-4]")
LOSSES = ("repro/train/schedule.py", r"\Z", "\nMORE = 1\n")
CELL: Any = ("smoke", "cc3m", "mmcl")


def poison() -> None:
    stages.poison_stage("smoke", "cc3m")


def make_report(*arguments: object, **options: object) -> None:
    """A stage's work; that of a report leaves a folder."""
    for argument in arguments:
        if isinstance(argument, Path) and argument.name == ".smoke.new":
            argument.mkdir(parents=True)


@pytest.mark.parametrize(
    ("stage", "work", "change", "named"),
    [
        (lambda: sources.data_stage("smoke"), (sources, "make_data"), DATA, "num_pairs.cc6m"),
        (poison, (stages, "make_poison"), POISON, "patch_size"),
        (poison, (stages, "make_poison"), CODE, "data/poison.py"),
        (
            lambda: driver.train_stage("clean", *CELL),
            (driver, "run_all"),
            RATES,
            "learning_rates|cells",
        ),
        (
            lambda: driver.train_stage("pretrain", *CELL),
            (driver, "run_all"),
            LOSSES,
            "train/schedule.py",
        ),
        (lambda: report.report_stage("smoke"), (report, "build"), DATA, "num_pairs.cc6m"),
    ],
    ids=["data", "poison", "code of poison", "clean", "code of pretrain", "report"],
)
def test_a_stage_fails_when_its_dependencies_change_while_it_runs(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Callable[[], None],
    work: tuple[object, str],
    change: tuple[str, str, str],
    named: str,
) -> None:
    """DVC hashes dependencies at the end, and records nothing of a stage that failed."""
    monkeypatch.setattr("repro.data.stages.write_samples", lambda *arguments: None)
    for name in ("evidence_of", "read_material", "load_claims", "authors_points", "read_records"):
        monkeypatch.setattr(report, name, lambda *arguments: None, raising=False)
    monkeypatch.setattr(*work, make_report)
    stage()
    monkeypatch.setattr(*work, edit(*change))
    with pytest.raises(SpecError, match=f"({named}).*{CHANGED}"):
        stage()


def test_an_edit_of_something_else_is_fine(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_all", edit(*RATES))
    driver.train_stage("pretrain", *CELL)
    monkeypatch.setattr(driver, "run_all", edit("repro/train/schedule.py", r"\A", "# why\n"))
    driver.train_stage("pretrain", *CELL)


def test_a_stage_refuses_later_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.CALL, json.dumps(module.code_state([""])))
    monkeypatch.setattr(driver, "run_all", lambda *arguments, **options: None)
    driver.train_stage("pretrain", *CELL)
    edit(*LOSSES)()
    said = r"train/schedule\.py: changed after the call began.*`dvc repro resolve@smoke`"
    with pytest.raises(SpecError, match=said):
        driver.train_stage("pretrain", *CELL)


def test_a_rank_refuses_a_run_that_was_launched_with_other_code(here: Path) -> None:
    spec = pretrain_runs(load_profile("smoke"))[0]
    Run(spec, "0" * 16, {}, module.code_digest()).save()
    edit(*LOSSES)()
    said = r"the code changed after the launch .*run the stage again"
    with pytest.raises(LaunchError, match=said):
        run_one("0" * 16, Path("work"), Resident.__new__(Resident), 0, module.code_digest())


@pytest.mark.parametrize(
    "stage",
    [
        lambda: driver.train_stage("pretrain", "smoke", "cc3m", "mmcl"),
        lambda: driver.train_stage("clean", "smoke", "cc3m", "mmcl"),
        lambda: report.report_stage("smoke"),
    ],
    ids=["pretrain", "clean", "report"],
)
def test_pairs_of_other_settings_are_refused_by_every_later_stage(
    here: Path, monkeypatch: pytest.MonkeyPatch, stage: Callable[[], None]
) -> None:
    folder = Path("poisoned/smoke/cc3m")
    folder.mkdir(parents=True)
    stages.write_settings(folder, stages.poison_settings(load_profile("smoke")))
    monkeypatch.setattr(driver, "run_all", lambda *arguments, **options: None)
    edit(*POISON)()
    with pytest.raises(SpecError, match=r"poisoned/smoke/cc3m: made with .*patch_size"):
        stage()


def test_digests_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is parsed twice, also by another process; a folder that is read only does no harm."""
    parsed: list[bytes] = []
    real = module._syntax_digest
    monkeypatch.setattr(module, "_syntax_digest", lambda of: (parsed.append(of), real(of))[1])
    code = tmp_path / "repro"
    code.mkdir()
    for name in ("one.py", "two.py"):
        (code / name).write_text(f"name = '{name}'\n")

    before = module.code_state([""], code)
    assert module.code_state([""], code) == before
    assert len(parsed) == 2

    (code / "one.py").write_text("name = 'one.py'  # a comment\n")
    assert module.code_state([""], code) == before
    (code / "one.py").write_text("name = 'another'\n")
    assert module.code_state([""], code).keys() == before.keys()
    assert module.code_state([""], code) != before
    assert len(parsed) == 4

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "replace_json", refuse)
    (code / "one.py").write_text("name = 'a third'\n")
    assert module.code_state([""], code) != before
