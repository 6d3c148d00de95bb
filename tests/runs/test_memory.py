"""Free memory: of the machine, and of the control groups of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.data import memory

KB = 1024


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 48 MB free, whose process is in a step of a Slurm job; its groups."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job_7/step_0/user").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 64000 kB\nMemAvailable:   48000 kB\n")
    (proc / "self/cgroup").write_text("0::/job_7/step_0/user\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "GROUPS", groups)
    monkeypatch.delenv(memory.LIMIT, raising=False)
    return groups


def write_group(folder: Path, limit: object, used: int, cached: int = 0) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_the_limit_of_a_job_counts_though_the_process_is_levels_below(system: Path) -> None:
    assert memory.free_memory() == 48000 * KB  # no group tells a limit
    write_group(system / "job_7/step_0/user", "max", 4 * KB)
    assert memory.free_memory() == 48000 * KB
    write_group(system / "job_7", 100 * KB, 60 * KB)
    assert memory.free_memory() == 40 * KB
    assert memory.machine_memory() == 100 * KB
    write_group(system / "job_7", 100 * KB, 120 * KB)
    assert memory.free_memory() == 0


def test_cached_files_of_a_group_count_as_free(system: Path) -> None:
    write_group(system / "job_7", 100 * KB, 90 * KB, cached=80 * KB)
    assert memory.free_memory() == 90 * KB


def test_a_system_that_tells_nothing_has_nothing_free(system: Path) -> None:
    (memory.PROC / "meminfo").unlink()
    assert memory.free_memory() == 0
