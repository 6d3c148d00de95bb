"""Failures that count: those since which a run came no further."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.launch import slurm
from repro.launch.tries import Tries, saved_step
from repro.profile import clean_runs, load_profile
from repro.runs.run import Run
from repro.spec import RunSpec


@pytest.fixture
def runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Three runs with work folders in an empty repository."""
    specs = clean_runs(load_profile("smoke", root / "specs"))[:3]
    monkeypatch.chdir(tmp_path)
    found = [make_run(spec, f"{number:016}") for number, spec in enumerate(specs)]
    for run in found:
        run.save()
    return found


def make_run(spec: RunSpec, fingerprint: str) -> Run:
    return Run(spec, fingerprint, {"pairs": {"path": "pairs", "hash": "p"}}, "code")


def checkpoint(run: Run, step: int) -> None:
    (run.work_dir / f"checkpoint-{step}").mkdir()


def test_failures_at_the_same_checkpoint_add_up(runs: list[Run]) -> None:
    tries, run = Tries(), runs[0]
    counts = []
    for _ in range(3):
        tries.begin([run])
        counts.append(tries.failed(run))
    assert counts == [1, 2, 3]


def test_a_failure_after_a_new_checkpoint_is_the_first_again(runs: list[Run]) -> None:
    tries, run = Tries(), runs[0]
    counts = []
    for step in (90, 100, 0, 1000):
        tries.begin([run])
        if step:
            checkpoint(run, step)
        counts.append(tries.failed(run))
    assert counts == [1, 1, 2, 1]
    assert saved_step(run) == 1000


def test_runs_that_wait_behind_one_that_comes_further_fail_no_more_than_it(
    runs: list[Run],
) -> None:
    """The last of a long pack is submitted once a day and has its turn in a week."""
    tries = Tries()
    tries.begin(runs)
    assert tries.failed(runs[2]) == 1
    tries.begin(runs)
    checkpoint(runs[0], 5)
    assert tries.failed(runs[2]) == 1


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
