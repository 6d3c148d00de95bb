"""What a run was made on and with: commit, versions, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import repro

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "pillow", "sacred")
WRITTEN = (
    "dvc.lock",
    "params.yaml",
    "README.md",
    "specs/README.md",
    "docs/findings.md",
    "results/studies",
    "report/faults.json",
)
"""What our own commands write into files that git tracks: a run does not depend on them.

DVC rewrites dvc.lock after each stage, and `reproduce` swaps params.yaml, whose profile is in every
run's specification. Were they counted, every run of a fresh clone would seem to be of edited code.
"""


def commit_state() -> tuple[str | None, bool]:
    """Commit of the checkout, and whether tracked files that a run may depend on differ from it;
    (None, False) outside a git checkout.
    """
    git = ["git", "-C", str(Path(repro.__file__).parent)]
    # From the root of the checkout, wherever below it the package lies.
    paths = [":/", *(f":(top,exclude){name}" for name in WRITTEN)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", *paths],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return commit, bool(changes.strip())


def git_refusal() -> str:
    """Why git does not tell the commit of this checkout, in a line; empty where it does, and where
    there is no checkout.
    """
    folder = Path(repro.__file__).resolve().parent
    if not any((parent / ".git").exists() for parent in folder.parents):
        return ""

    # Of another owner, for example, as where root runs in a container.
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return f"git: {error.strerror}"
    return "" if done.returncode == 0 else (done.stderr.splitlines() or ["git ended"])[0]


def environment() -> dict[str, str]:
    """Versions and device, without host name or path."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "device": _device(),
    }
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device() -> str:
    """Model name of the first GPU, else of the processor."""
    # From the system's files: asking torch would mean importing it.
    for pattern, field in (
        ("/proc/driver/nvidia/gpus/*/information", "Model:"),
        ("/proc/cpuinfo", "model name"),
    ):
        for path in sorted(Path("/").glob(pattern[1:])):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith(field):
                    return line.split(":", 1)[1].strip()
    return f"{platform.machine()} with {os.cpu_count()} cores"
