"""What a run was made on and with: commit, versions, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import repro

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "pillow", "sacred")
INSTRUCTIONS = {"avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve"}
WRITTEN = (
    "dvc.lock",
    "params.yaml",
    "README.md",
    "specs/README.md",
    "docs/findings.md",
    "docs/mini.md",
    "results/studies",
    "report/metrics",
)
"""Tracked files that our own commands write: a run does not depend on them.

DVC rewrites dvc.lock after each stage, and `reproduce` swaps params.yaml, whose profile is in every
run's specification. Were they counted, every run of a fresh clone would seem to be of edited code.
"""


def commit_state() -> tuple[str | None, bool]:
    """Commit of the checkout, and whether tracked files that a run may depend on differ from it;
    (None, False) outside a git checkout.
    """
    # From the root of the checkout, wherever below it the package lies.
    paths = [":/", *(f":(top,exclude){name}" for name in WRITTEN)]
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno", "--", *paths)
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return commit, bool(changes)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(repro.__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(done.stdout).strip()


def environment() -> dict[str, str]:
    """Versions and device, without host name or path."""
    versions = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "device": _device(),
        "instructions": _instructions(),
    }
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _instructions() -> str:
    """Instruction sets of the processor by which sums are rounded in different orders."""
    flags = _field("proc/cpuinfo", "flags") or _field("proc/cpuinfo", "Features")
    return " ".join(sorted(INSTRUCTIONS & set(flags.split())))


def _device() -> str:
    """Model name of the first GPU, else of the processor."""
    # From the system's files: asking torch would mean importing it.
    gpu = _field("proc/driver/nvidia/gpus/*/information", "Model")
    processor = f"{platform.machine()} with {os.cpu_count()} cores"
    return gpu or _field("proc/cpuinfo", "model name") or processor


def _field(pattern: str, name: str) -> str:
    """The first value of a field in the system's files that match; empty if there is none."""
    for path in sorted(Path("/").glob(pattern)):
        found = re.search(rf"^{name}\s*:(.*)$", path.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found[1].strip()
    return ""
