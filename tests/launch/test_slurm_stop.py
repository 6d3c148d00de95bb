"""A stop on two nodes of a real Slurm: rank 0 still writes when the other node's rank has ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from repro.launch import slurm
from repro.profile import pretrain_runs
from repro.spec import Profile
from tests.support.launch import Launch
from tests.support.processes import wait_for
from tests.support.slurm import needs_slurm, running_cluster

pytestmark = [pytest.mark.nightly, needs_slurm]
DRIVER = """
from pathlib import Path
from repro.events import die_with_parent
from repro.launch.driver import run_all
from repro.profile import load_profile, pretrain_runs
die_with_parent()
specs = pretrain_runs(load_profile("smoke", Path(SPECS)), "cc3m", "mmcl")
run_all(specs, lambda spec: {"pairs": Path("pairs")}, worker="tests.support.slow_writer")
"""


def test_the_checkpoint_of_a_stop_is_whole_though_the_other_node_ends_first(
    profile: Profile,
    launch: Launch,
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal that Slurm sends before the wall time. Neither may srun end the step with the first
    agent, nor may the signal go to srun, which would kill all ranks.
    """
    for name, value in {
        "REPRO_LAUNCHER": "slurm",
        "REPRO_SBATCH": "--cpus-per-task=1 --mem=100",
        "REPRO_SLURM_POLL_SECONDS": "1",
        "REPRO_NODES": "2",
        "REPRO_RANKS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert len(pretrain_runs(profile, "cc3m", "mmcl")) == 1
    with running_cluster(tmp_path_factory.mktemp("slurm")):
        code = DRIVER.replace("SPECS", repr(str(root / "specs")))
        driver = subprocess.Popen([sys.executable, "-c", code])
        try:
            wait_for(lambda: len(list(Path("work").glob("*/ready-*"))) == 2, 240)
            wait_for(lambda: list(Path("sacred/smoke").glob("*/run.json")), 120)
            stop = ["scancel", "--signal=USR1", "--batch", f"--name={slurm.job_name()}"]
            subprocess.run(stop, check=True)
            wait_for(lambda: list(Path("work").glob("*/checkpoint-7")), 100)
            # The job has gone back into the queue, and begins anew.
            wait_for(lambda: len(list(Path("sacred/smoke").glob("*/run.json"))) == 2, 120)
        finally:
            driver.kill()
            driver.wait()
