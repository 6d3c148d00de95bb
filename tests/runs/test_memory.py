"""Memory of the machine, and of the control groups of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.data import memory


def test_the_limit_of_a_job_counts_though_the_process_is_levels_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in a step of a Slurm job, whose `--mem` is a limit of the job's group."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job_7/step_0/user").mkdir(parents=True)
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "GROUPS", groups)
    monkeypatch.delenv(memory.LIMIT, raising=False)
    machine = memory.machine_memory()  # no group tells a limit, nor is there a list of groups
    (proc / "self/cgroup").write_text("0::/job_7/step_0/user\n")
    assert memory.machine_memory() == machine
    (groups / "job_7/step_0/user/memory.max").write_text("max\n")
    assert memory.machine_memory() == machine
    (groups / "job_7/memory.max").write_text("102400\n")
    assert memory.machine_memory() == 102400
