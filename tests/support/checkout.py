"""A fresh checkout of the working tree, and DVC in it as a user runs it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path


def fresh_checkout(root: Path, folder: Path) -> Path:
    """Copy what git tracks or would track into `folder` and commit it there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(folder)
    if (root / "data" / "npm").is_dir():  # verified before use like a download
        shutil.copytree(root / "data" / "npm", folder / "data" / "npm")
    return folder


def commit(folder: Path) -> None:
    """Commit all that git does not ignore."""
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *author, "commit", "-qm", "start"], cwd=folder, check=True)


def environment(**more: str) -> dict[str, str]:
    """This environment, its Python first on PATH, and `more`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


def dvc(folder: Path, *arguments: str, **more: str) -> str:
    """Output of `dvc` in the checkout; `more` is environment."""
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def up_to_date_within(seconds: float, folder: Path) -> bool:
    """Whether `dvc repro` finds nothing to do within a time; AssertionError where it finds something.

    Counted in processor time, of the better of two calls, since a busy machine makes all else longer;
    on a machine that needs more than a second to list the stages, `seconds` are as many times that.
    """

    def spent(*arguments: str) -> tuple[str, float]:
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        said = dvc(folder, *arguments)
        return said, sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before

    shares = []
    for _ in range(2):
        _, listing = spent("stage", "list")
        said, took = spent("repro")
        assert "up to date" in said
        shares.append(took / max(1.0, listing))
    return min(shares) <= seconds
