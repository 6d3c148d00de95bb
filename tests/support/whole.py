"""A report as the small study makes it at its full size: several seeds, and studies beside them.

Outcomes are those of the synthetic study, moved a little by seed; nothing here is a result.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from repro.profile import clean_runs, pretrain_runs
from repro.report.build import report_stage
from repro.runs.published import read_results
from repro.spec import RunSpec
from repro.study.archive import write_archive
from repro.study.spec import Study, load_study, study_names, varied
from tests.support.ledger import EVALUATIONS, ROOT, outcome, write_run, write_study

STUDIES = ("seeds", "control", "dose", "starts", "maturity", "strength")
"""One that repeats the whole graph, one with unpoisoned models, one that varies a number, one that
only pre-trains, and one of each that does so over a number.
"""
SHIFT, EVERY = 0.01, 3
"""Accuracy from one seed to the next, and after how many seeds it starts anew."""


def studies_of(profile: str) -> list[str]:
    """Every study of a profile."""
    return [name for name in study_names() if load_study(name).profile == profile]


def write_whole(root: Path, studies: Sequence[str] = STUDIES, seeds: int | None = None) -> None:
    """The synthetic study at `root`, the archives of studies, and its report.

    `seeds`: of each variant no more than so many.
    """
    write_study(root)
    shutil.copy(ROOT / "pyproject.toml", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        for name in studies:
            _write_archive(root, name, seeds)
        report_stage("mini")


def _write_archive(root: Path, name: str, seeds: int | None) -> None:
    study = load_study(name)
    fewer = {
        label: variant.model_copy(update={"seeds": variant.seeds[:seeds]})
        for label, variant in study.variants.items()
    }
    study = study.model_copy(update={"variants": fewer})
    specs = [spec for label in study.variants for spec in _runs(study, label)]
    # Of cleaning, as in the synthetic study; a study that only pre-trains has none.
    rates = [spec.schedule.learning_rate for spec in specs if spec.stage == "clean"]
    strongest = max(rates, default=1.0)
    made = root / "made"
    for spec in specs:
        write_run(made, spec, _outcomes(spec, spec.schedule.learning_rate / strongest))
    archived = ((record, rows) for _, record, rows in read_results(made))
    write_archive(root / "results/studies" / f"{name}.jsonl.gz", archived)
    shutil.rmtree(made)


def _runs(study: Study, label: str) -> list[RunSpec]:
    """The runs of a variant."""
    variant = study.variants[label]
    profile = varied(study, variant)
    asked = {"variant": label, "poisoned": variant.poisoned}
    runs = pretrain_runs(profile, **asked)
    if "clean" in study.stages:
        runs += [
            run
            for run in clean_runs(profile, **asked)
            if run.clean_size in study.clean_sizes and run.loss in study.losses
        ]
    return [
        run
        for run in runs
        if run.dataset in study.datasets and run.pretrain_objective in variant.pretrain_objectives
    ]


def _outcomes(spec: RunSpec, relative_rate: float) -> list[tuple[float, float]]:
    """As in the synthetic study, with an accuracy of the seed's; without poison, no attack."""
    found = []
    for step in range(EVALUATIONS):
        accuracy, asr = outcome(spec, step / (EVALUATIONS - 1), relative_rate)
        found.append((accuracy + SHIFT * (spec.seed % EVERY), asr if spec.poisoned else 0.0))
    return found
