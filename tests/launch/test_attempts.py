"""Failures that count, and what a stage prints where nobody watches."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.launch import slurm
from repro.launch.packs import Attempts, run_progress
from repro.profile import clean_runs, load_profile
from repro.runs.run import Run
from repro.spec import RunSpec


@pytest.fixture
def runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Three runs with work folders in an empty repository."""
    specs = clean_runs(load_profile("smoke", root / "specs"))[:3]
    monkeypatch.chdir(tmp_path)
    return save_runs(specs)


def save_runs(specs: list[RunSpec]) -> list[Run]:
    made = []
    for number, spec in enumerate(specs):
        run = Run(spec, f"{number:016x}", {"pairs": {"path": "pairs", "hash": "p"}}, "code")
        run.save()
        made.append(run)
    return made


def checkpoint(run: Run, step: int) -> None:
    (run.work_dir / f"checkpoint-{step}").mkdir()


def test_failures_at_one_checkpoint_add_up_and_a_new_one_starts_the_count_again(
    runs: list[Run],
) -> None:
    attempts, run = Attempts(), runs[0]
    counts = []
    for step in (0, 0, 90, 100, 0, 1000):
        attempts.begin([run])
        if step:
            checkpoint(run, step)
        counts.append(attempts.failed(run))
    assert counts == [1, 2, 1, 1, 2, 1]
    assert run_progress([run]) == (0, 1000)


def test_progress_of_one_run_counts_for_those_that_wait_behind_it(runs: list[Run]) -> None:
    """The last of a long batch is submitted once a day and has its turn in a week."""
    attempts = Attempts()
    attempts.begin(runs)
    assert attempts.failed(runs[2]) == 1
    attempts.begin(runs)
    checkpoint(runs[0], 5)
    assert attempts.failed(runs[2]) == 1


def test_slurm_jobs_that_come_further_are_submitted_without_end(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten jobs that end at the wall time with a new checkpoint; three in vain are the limit."""
    submitted: list[int] = []
    monkeypatch.setattr(slurm, "submit", lambda name, packs, worker: submitted.append(len(packs)))
    submitter, run = slurm.Submitter("name", "worker"), runs[0]
    waiting = {run.fingerprint: run}
    for job in range(10):
        # Looked at twice, for a record may come late.
        submitter.submit_lost(waiting, [])
        submitter.submit_lost(waiting, [])
        checkpoint(run, 10 + job)
    assert run.finished() is None
    assert sum(submitted) >= 10

    for _ in range(2 * slurm.ROUNDS):
        submitter.submit_lost(waiting, [])
    record = run.finished()
    assert record is not None
    assert f"no result after {slurm.ROUNDS} Slurm jobs" in record.reason
