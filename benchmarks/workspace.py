"""A finished study to report on: a copy of the repository's graph with a synthetic ledger of as
many points as the authors published.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

from repro.profile import clean_runs, load_profile, pretrain_runs, read_yaml
from tests.support.ledger import write_run

POINTS = 5779
"""Evaluations in the authors' result files."""
PROFILE = "paper"
COPIED = (
    "repro",
    "specs",
    "dvc.yaml",
    "pyproject.toml",
    ".dvcignore",
    ".dvc/config",
    "report/faults.json",
    "results/studies",
)


def make_workspace(source: Path, folder: Path) -> None:
    """Copy code, specifications and graph, and write rows of every run of the profile `paper`,
    POINTS in all.
    """
    for name in COPIED:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source / name, folder / name)
    (folder / "params.yaml").write_text(f"profile: {PROFILE}\n", encoding="utf-8")
    profile = load_profile(PROFILE)
    runs = [*pretrain_runs(profile), *clean_runs(profile)]
    for index, spec in enumerate(runs):
        count = POINTS // len(runs) + (index < POINTS % len(runs))
        write_run(
            folder, spec, [(0.2 - 0.1 * step / count, 1 - step / count) for step in range(count)]
        )


def commit(folder: Path) -> None:
    """Tell DVC that all stages are done; outputs that are not there become placeholders."""
    for stage in read_yaml(folder / "dvc.yaml")["stages"].values():
        axes = {
            name: [value.replace("${profile}", PROFILE) for value in values]
            for name, values in stage["matrix"].items()
        }
        for values in itertools.product(*axes.values()):
            for declared in stage["outs"]:
                path = declared if isinstance(declared, str) else next(iter(declared))
                for name, value in zip(axes, values, strict=True):
                    path = path.replace(f"${{item.{name}}}", value)
                _placeholder(folder / path)
    dvc(folder, "config", "--local", "core.no_scm", "true")
    dvc(folder, "commit", "--force")


def _placeholder(path: Path) -> None:
    if not path.exists():
        file = path if path.suffix else path / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC there; its output."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


def report(folder: Path) -> None:
    """Build the report there."""
    command = [sys.executable, "-m", "repro", "report", "--profile", PROFILE]
    subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def repeat(folder: Path) -> None:
    """`dvc repro` with nothing to do; RuntimeError if it ran a stage."""
    output = dvc(folder, "repro")
    if "Running stage" in output:
        raise RuntimeError(f"dvc repro had something to do:\n{output}")
