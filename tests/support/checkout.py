"""A fresh checkout of the working tree, and DVC in it as a user runs it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def listed(root: Path) -> list[str]:
    """Files that git tracks or would track, in order."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.check_output(command, cwd=root, text=True).split("\0")
    return sorted(name for name in names if (root / name).is_file())


def fresh_checkout(root: Path, folder: Path, *, whole_lock: bool = False) -> Path:
    """Copy what git tracks or would track into `folder` and commit it there.

    Python's compiled files come along. Of dvc.lock the stages of `mini` and `smoke`, which DVC
    reads and writes at every stage, come with `whole_lock` alone.
    """
    for name in listed(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    for compiled in (root / "repro").rglob("__pycache__"):
        shutil.copytree(compiled, folder / compiled.relative_to(root), dirs_exist_ok=True)
    if not whole_lock:
        lock = folder / "dvc.lock"
        head, *stages = re.split(r"(?m)^(?=  \w+@)", lock.read_text())
        studies = [stage for stage in stages if stage.startswith("  study@")]
        lock.write_text("".join([head, *studies]))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(folder)
    if (root / "data" / "npm").is_dir():  # verified before use like a download
        shutil.copytree(root / "data" / "npm", folder / "data" / "npm")
    return folder


def commit(folder: Path) -> None:
    """Commit all that git does not ignore."""
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
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


def verify(folder: Path, profile: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repro", "verify", "--all", "--profile", profile]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def results(folder: Path, profile: str) -> dict[str, Any]:
    """Stores and weights of a profile by hash, and rows without times of every run."""
    found: dict[str, Any] = {}
    for room in ("data", "poisoned", "models"):
        for path in sorted((folder / room / profile).rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_file() and path.name != "run.json" and "/." not in name:
                found[name] = sha256(path.read_bytes())
    for path in sorted((folder / "results" / profile).rglob("rows.jsonl")):
        lines = path.read_text().splitlines()
        rows = [json.loads(line) | {"seconds": 0} for line in lines]
        record = json.loads(path.with_name("run.json").read_bytes())
        name = str(path.parent.relative_to(folder))
        found[name] = record["status"], rows
    return found


def start(folder: Path, *command: str, **more: str) -> subprocess.Popen[bytes]:
    """As at a terminal, the leader of its group; orphans would hold a pipe open, but not a log."""
    with (folder / "call.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def said(folder: Path) -> str:
    """The end of what the last call printed."""
    return (folder / "call.log").read_text(errors="replace")[-4000:]
