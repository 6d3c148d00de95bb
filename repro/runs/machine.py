"""What a run was made on and with: commit, versions, device."""

import importlib.metadata
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import repro

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "pillow", "sacred")
INSTRUCTIONS = {"avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve"}
"""Instruction sets of processors by which sums are rounded in different orders."""
PROCESSOR = ("vendor_id", "cpu family", "model", "stepping")
WRITTEN = (
    "dvc.lock",
    "params.yaml",
    "README.md",
    "specs/README.md",
    "docs/findings.md",
    "docs/data.md",
    "docs/history.md",
    "results/studies",
    "report/metrics",
)
"""Tracked files that our own commands write: a run does not depend on them.

DVC rewrites dvc.lock after each stage, and `reproduce` params.yaml, whose profile is in every run's
specification. Were they counted, every run of a fresh clone would seem to be of edited code.
"""


def commit_state() -> tuple[str | None, bool]:
    """Commit of the checkout, and whether tracked files that a run may depend on differ from it;
    (None, False) where the package is in no git checkout, or in one of another project.
    """
    # From the root of the checkout, wherever below it the package lies.
    paths = [":/", *(f":(top,exclude){name}" for name in WRITTEN)]
    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "-uno", "--", *paths)
    except (OSError, RuntimeError):
        return None, False
    return commit, bool(changes)


def commit_notice() -> str:
    """A line where there is a checkout of which git tells nothing to this user; else empty."""
    try:
        git("rev-parse", "HEAD")
    except (OSError, RuntimeError) as error:
        return f"records name no commit: {error}" if "safe.directory" in str(error) else ""
    return ""


def git(*arguments: str) -> str:
    """Output of git in the folder of the package; RuntimeError with its message if it fails."""
    command = ["git", "-C", str(Path(repro.__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """Versions and device, without host name or path."""
    # From the system's files: asking torch would mean importing it.
    gpu = _field("proc/driver/nvidia/gpus/*/information", "Model")
    processor = f"{platform.machine()} with {os.cpu_count()} cores"
    flags = _field("proc/cpuinfo", "(?:flags|Features)")
    versions = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "device": gpu or _field("proc/cpuinfo", "model name") or processor,
        # Virtual machines call a processor by its maker alone; its numbers tell the model.
        "processor": " ".join(filter(None, (_field("proc/cpuinfo", n) for n in PROCESSOR))),
        "instructions": " ".join(sorted(INSTRUCTIONS & set(flags.split()))),
    }
    for library in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _field(pattern: str, name: str) -> str:
    """The first value of a field, a pattern, in the system's files; empty if there is none."""
    for path in sorted(Path("/").glob(pattern)):
        content = path.read_text(errors="replace")
        if found := re.search(rf"^{name}\s*:(.*)$", content, re.MULTILINE):
            return found[1].strip()
    return ""
