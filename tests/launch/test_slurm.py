"""The Slurm launcher against a real Slurm on this host: two nodes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repro.launch import slurm
from repro.profile import clean_runs, pretrain_runs
from repro.runs.run import LaunchError
from repro.spec import Profile
from tests.support.launch import Launch, published, start_driver, started, tracked
from tests.support.processes import wait_for
from tests.support.slurm import Cluster, needs_slurm, running_cluster

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(autouse=True)
def _through_slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "LAUNCHER": "slurm",
        "SBATCH": "--cpus-per-task=1 --mem=100",
        "SLURM_POLL_SECONDS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"REPRO_{name}", value)


def test_packs_run_as_an_array_and_are_published(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three jobs in one array."""
    monkeypatch.setenv("REPRO_SLOTS", "3")
    specs = clean_runs(profile)
    launch(specs)
    assert set(published(specs).values()) == {"completed"}
    assert sorted(started()) == sorted(spec.run_id for spec in specs)
    arrays = [len(list(folder.glob("*.json"))) for folder in Path("work/jobs").glob("*/*")]
    assert arrays == [3]


def test_what_sbatch_refuses_is_said(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_SBATCH", "")
    monkeypatch.setenv("REPRO_SBATCH_CLEAN", "--partition=absent")
    said = r"sbatch refused the jobs: (.|\n)*partition(.|\n)*REPRO_SBATCH_CLEAN"
    with pytest.raises(LaunchError, match=said):
        launch(clean_runs(profile)[:1])


def test_a_run_whose_jobs_all_die_is_named(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ends without a record is submitted again, ROUNDS times in all."""
    monkeypatch.setattr(slurm, "SCRIPT", "#!/bin/bash\nexit 1\n")
    specs = clean_runs(profile)[:1]
    said = rf"1 of 1 .*\n.*{specs[0].run_id}: no result after {slurm.ROUNDS} Slurm jobs"
    with pytest.raises(LaunchError, match=said):
        launch(specs)
    assert len(list(Path("work/jobs").glob("*/*"))) == slurm.ROUNDS


def test_without_slurm(profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LaunchError, match="squeue: no such command; REPRO_LAUNCHER=slurm needs"):
        launch(clean_runs(profile)[:1])


def test_a_failing_squeue_never_looks_like_no_jobs(
    profile: Profile,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is submitted while squeue fails; the driver says so, and after a while it ends."""
    assert slurm.live_jobs("nobody") == []
    broken = Path("bin/squeue").absolute()
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "SILENCE_SECONDS", 8.0)
    assert slurm.live_jobs("nobody") is None
    with pytest.raises(LaunchError, match="squeue fails; the jobs go on"):
        launch(clean_runs(profile)[:1])
    assert capsys.readouterr().out.count("squeue fails; asked again") == 1
    assert not list(Path("work/jobs").glob("*"))


def test_a_job_that_is_gone_at_the_first_look_is_looked_for_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may come later than the news of its end."""
    submitted: list[int] = []
    run: Any = SimpleNamespace(fingerprint="f", has_ended=False, work_dir=tmp_path)
    monkeypatch.setattr(slurm, "submit", lambda name, jobs, worker: submitted.append(len(jobs)))
    monkeypatch.setattr(
        slurm, "queues", lambda runs, nodes: [[SimpleNamespace(runs=[of])] for of in runs]
    )
    submitter = slurm.Submitter("jobs", "worker")
    for looks in (1, 1, 2, 2):
        submitter.submit_lost([run], [])
        assert len(submitted) == looks


def test_a_job_that_slurm_has_not_looked_at_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "part|0|PENDING|None|\npart|1|PENDING|Resources|\npart|2|RUNNING|None|n1\n"
    answer = SimpleNamespace(returncode=0, stdout=lines)
    monkeypatch.setattr(slurm, "_slurm", lambda command: answer)
    assert [job.where for job in slurm.live_jobs("any") or ()] == ["", "Resources", "n1"]


def test_another_folders_jobs_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    names = []
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        names.append(slurm.job_name())
    script = f"sbatch --parsable --job-name={names[0]} --hold --output=/dev/null --wrap=true"
    job = subprocess.run(script.split(), check=True, capture_output=True, text=True).stdout.strip()
    jobs = slurm.live_jobs(names[0]) or []
    assert [(job.state, job.where) for job in jobs] == [("pending", "JobHeldUser")]
    assert slurm.live_jobs(names[1]) == []
    subprocess.run(["scancel", job], check=True)


def test_the_wall_time_ends_a_run_and_requeues_it(profile: Profile, launch: Launch) -> None:
    """The signal before the wall time: the job ends in order, the same job starts again."""
    specs = clean_runs(profile)[:1]
    process = start_driver(specs, {specs[0].run_id: "wait"})
    wait_for(tracked, 120)
    notice = ["scancel", "--signal=USR1", "--batch", f"--name={slurm.job_name()}"]
    subprocess.run(notice, check=True)
    wait_for(lambda: len(Path("starts.txt").read_text().splitlines()) == 2, 120)
    Path("go").touch()
    assert process.communicate(timeout=120)
    assert process.returncode == 0
    assert set(published(specs).values()) == {"completed"}
    assert len(list(Path("work/jobs").glob("*/*"))) == 1, "one submission"
    assert sorted(tracked().values()) == ["COMPLETED", "INTERRUPTED"]


def test_jobs_outlive_their_driver_and_the_next_one_attaches(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where what is left belongs to fewer models than what was submitted."""
    monkeypatch.setenv("REPRO_RANKS", "1")
    specs = pretrain_runs(profile, "cc3m")
    process = start_driver(specs, {specs[1].model_name: "wait"})
    wait_for(lambda: published(specs[:1]), 120)
    process.kill()
    process.communicate()
    Path("go").touch()
    launch(specs)
    assert published(specs[1:]) == {specs[1].run_id: "completed"}
    assert len(started()) == len(specs), "nothing ran twice"
