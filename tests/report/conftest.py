"""One synthetic report, with archives of studies, for all tests of pages, exports and verify."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from repro.profile import clean_runs, pretrain_runs
from repro.report.build import report_stage
from repro.runs.published import read_results
from repro.spec import RunSpec
from repro.study.archive import write_archive
from repro.study.spec import Study, load_study, varied
from tests.support.ledger import EVALUATIONS, ROOT, outcome, write_run, write_study
from tests.support.once import made_once, of_this_call


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, archives of two studies over three seeds, and their report; not to be changed."""
    studies = ("seeds", "control")
    make = partial(write_whole, studies=studies, seeds=3)
    return made_once(of_this_call(tmp_path_factory, "whole"), make)


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that a test may change; it is the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    return folder


SHIFT, EVERY = 0.01, 3
"""Accuracy from one seed to the next, and after how many seeds it starts again."""


def write_whole(root: Path, studies: Sequence[str], seeds: int) -> None:
    """The synthetic study at `root`, archives of `seeds` seeds of studies, and its report."""
    write_study(root)
    shutil.copy(ROOT / "pyproject.toml", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        for name in studies:
            _write_archive(root, name, seeds)
        report_stage("mini")


def _write_archive(root: Path, name: str, seeds: int) -> None:
    study = load_study(name)
    specs = [spec for label in study.variants for spec in _runs(study, label, seeds)]
    strongest = max(spec.schedule.learning_rate for spec in specs if spec.stage == "clean")
    made = root / "made"
    for spec in specs:
        relative_rate = spec.schedule.learning_rate / strongest
        write_run(made, spec, _outcomes(spec, relative_rate))
    archived = ((record, rows) for _, record, rows in read_results(made))
    write_archive(root / "results/studies" / f"{name}.jsonl.gz", archived)
    shutil.rmtree(made)


def _runs(study: Study, label: str, seeds: int) -> list[RunSpec]:
    """The runs of a variant."""
    whole = study.variants[label]
    variant = whole.model_copy(update={"seeds": whole.seeds[:seeds]})
    profile = varied(study, variant)

    def belongs(run: RunSpec) -> bool:
        is_trained = (
            run.dataset in study.datasets and run.pretrain_objective in variant.pretrain_objectives
        )
        if run.stage == "pretrain":
            return is_trained
        return is_trained and run.clean_size in study.clean_sizes and run.loss in study.losses

    trained = pretrain_runs(profile, variant=label, poisoned=variant.poisoned)
    cleaned = clean_runs(profile, variant=label, poisoned=variant.poisoned)
    return [run for run in [*trained, *cleaned] if belongs(run)]


def _outcomes(spec: RunSpec, relative_rate: float) -> list[tuple[float, float]]:
    """As in the synthetic study, with an accuracy of the seed's; without poison, no attack."""
    found = []
    for step in range(EVALUATIONS):
        accuracy, asr = outcome(spec, step / (EVALUATIONS - 1), relative_rate)
        accuracy += SHIFT * (spec.seed % EVERY)
        found.append((accuracy, asr if spec.poisoned else 0.0))
    return found
