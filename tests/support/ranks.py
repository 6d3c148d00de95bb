"""Several ranks on this machine's processor: real torchrun, gloo."""

from __future__ import annotations

import subprocess
import sys


def on_ranks(ranks: int, script: str, *arguments: str) -> None:
    """Run a script on so many ranks; the test fails with their output where one of them does."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        "--no-python",
        sys.executable,
    ]
    done = subprocess.run(
        [*command, "-c", script, *arguments], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
