"""The Slurm launcher against a real Slurm on this host: slurmctld and one slurmd with two processors to give."""

# ruff: noqa: F811  (fixtures of another file are imported, and named again as arguments)

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_launch import Launch, launch, profile, published, start_driver, started, wait_for  # noqa: F401  (fixtures)
from test_tracking import free_port

from repro.launch import LaunchError, slurm
from repro.spec import Profile, clean_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.getuid() != 0, reason="no Slurm to start here: apt-get install slurm-wlm munge, as root"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Own munged, slurmctld and slurmd, under a temporary folder."""
    home = tmp_path_factory.mktemp("slurm")
    home.chmod(0o755)
    (home / "state").mkdir()
    (home / "spool").mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    conf = home / "slurm.conf"
    conf.write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=10
CredType=cred/munge
SlurmUser={getpass.getuser()}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=500
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
    (home / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={home}/munge.socket", f"--pid-file={home}/munged.pid",
         f"--log-file={home}/munged.log", f"--seed-file={home}/munged.seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-N", host, "-f", str(conf)],
    ]  # fmt: skip
    running = []
    with pytest.MonkeyPatch.context() as patch, (home / "out").open("wb") as out:
        patch.setenv("SLURM_CONF", str(conf))
        for command in daemons:
            running.append(subprocess.Popen(command, stdout=out, stderr=out))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > deadline:
                pytest.fail("\n".join(path.read_text(errors="replace")[-2000:] for path in [home / "out", *home.glob("*.log")]))
            time.sleep(1)
        yield
        for process in reversed(running):
            process.terminate()
            process.wait(30)


@pytest.fixture
def through_slurm(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_LAUNCHER", "slurm")
    monkeypatch.setenv("REPRO_SBATCH", "--cpus-per-task=1 --mem=100")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 1.0)


def test_packs_run_as_an_array_and_are_published(profile: Profile, launch: Launch, through_slurm: None) -> None:
    specs = clean_runs(profile)
    launch(specs)
    assert set(published(specs).values()) == {"completed"}
    assert sorted(started()) == sorted(spec.run_id for spec in specs)


def test_what_sbatch_refuses_is_said(
    profile: Profile,
    launch: Launch,
    through_slurm: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPRO_SBATCH", "--partition=absent")
    with pytest.raises(LaunchError, match=r"sbatch refused the jobs: .*partition"):
        launch(clean_runs(profile)[:1])


def test_a_failing_squeue_never_looks_like_no_jobs(cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert slurm.live_jobs("nobody") == 0
    broken = tmp_path / "squeue"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.live_jobs("nobody") is None


@pytest.mark.faults
def test_jobs_outlive_their_driver_and_the_next_one_attaches(profile: Profile, launch: Launch, through_slurm: None) -> None:
    specs = clean_runs(profile)
    process = start_driver(specs, {specs[1].run_id: "wait"})
    wait_for(lambda: Path("starts.txt").exists() and specs[1].run_id in Path("starts.txt").read_text(), 120)
    process.kill()
    process.communicate()
    Path("go").touch()
    launch(specs)
    assert set(published(specs).values()) == {"completed"}
    assert sorted(started()) == sorted(spec.run_id for spec in specs), "nothing ran twice"
