"""Processes that draw and index for the data stage: they end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import repro
from tests.support.launch import processes, wait_for


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_a_killed_stage_takes_its_pool_along(tmp_path: Path) -> None:
    """Shards that block whoever opens them; without care, the pool would wait for work for ever."""
    for name in ("0.tar", "1.tar"):
        os.mkfifo(tmp_path / name)
    code = """if __name__ == "__main__":
    from pathlib import Path
    from repro.sources.shards.tars import index_all
    index_all(Path(), {Path("0.tar"): Path("0.npz"), Path("1.tar"): Path("1.npz")})
"""
    (tmp_path / "stage.py").write_text(code)
    path = os.environ | {"PYTHONPATH": str(Path(repro.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "stage.py"], cwd=tmp_path, env=path) as stage:
        wait_for(lambda: sum("spawn_main" in line for line in processes(tmp_path)) == 2)
        # They end once they have set it up that they do.
        time.sleep(2)
        stage.kill()
    wait_for(lambda: not processes(tmp_path), 10)
