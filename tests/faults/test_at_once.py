"""Two at once: the second pipeline in a folder says so, and nothing runs twice or is mixed."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from repro.files import building
from repro.spec import SpecError
from tests.support.pipeline import environment, repro


def test_a_second_pipeline_in_a_folder_is_told_so_and_disturbs_nothing(project: Path) -> None:
    (project / "params.yaml").write_text("profile: smoke\n")
    stub = project / "bin" / "python"
    wait = "[ $3 = data ] && until [ -e go ]; do sleep 0.1; done\nout() {"
    stub.write_text(stub.read_text().replace("out() {", wait))
    command = {
        "args": ["dvc", "repro", "poison@smoke-cc3m"],
        "cwd": project,
        "env": environment(project),
        "text": True,
    }
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
        try:
            deadline = time.monotonic() + 120
            while not (project / "ran.log").exists():
                assert time.monotonic() < deadline and first.poll() is None
                time.sleep(0.1)
            second = subprocess.run(**command, capture_output=True, timeout=120)
        finally:
            (project / "go").touch()
        output, _ = first.communicate(timeout=300)
    assert second.returncode != 0 and first.returncode == 0, output
    assert re.search(
        rf"is busy, it is being blocked by:\s+\(PID {first.pid}\)",
        second.stderr,
        re.DOTALL,
    ), second.stderr
    ran = [line.rstrip() for line in (project / "ran.log").read_text().splitlines()]
    assert [line for line in ran if not line.startswith("resolve")] == [
        "data smoke",
        "poison smoke cc3m",
    ]
    assert repro(project, *command["args"]) == []


def test_a_stale_lock_file_or_a_partial_folder_of_a_dead_stage_stops_nobody(tmp_path: Path) -> None:
    """Locks belong to processes, not to files: what a killed stage leaves behind is cleared away."""
    out = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    (tmp_path / ".out.lock").write_text("left behind")
    with building(out) as folder:
        (folder / "whole").touch()
        with pytest.raises(SpecError, match="another process is building it"), building(out):
            pass
    assert [path.name for path in out.iterdir()] == ["whole"]
