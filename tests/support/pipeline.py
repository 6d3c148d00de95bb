"""A checkout whose stages are stubs, for tests of dvc.yaml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import checkout

STUB = """#!/bin/sh
# python -m repro STAGE --profile P [--dataset D] [--objective O]: makes the outputs of the stage
# and notes the call.
echo "$3 $5 $7 $9" >> ran.log
out() { for path; do mkdir -p "$path" && echo "$path" > "$path/file"; done; }
case $3 in
    data) out data/$5/cc3m data/$5/cc6m data/$5/evaluation; for f in synonyms attribution accounting; do echo 1 > data/$5/$f.json; done ;;
    poison) out poisoned/$5/$7; echo 1 > poisoned/$5/$7-samples.json ;;
    pretrain) out models/$5/$7-$9 results/$5/pretrain/$7-$9 ;;
    clean) out models/$5/cleaned/$7-$9 results/$5/clean/$7-$9 ;;
    study) mkdir -p results/studies && echo "$4" > "results/studies/$4.jsonl.gz" ;;
    resolve) mkdir -p results && exec {python} -m repro resolve --profile $5 ;;
    report) out report/build/$5; echo '{{}}' > report/build/$5/metrics.json ;;
esac
"""


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A checkout with the real graph, specs and package, where `python` is the stub."""
    return write_project(root, tmp_path)


def write_project(root: Path, folder: Path) -> Path:
    for name in ("specs", "repro", "docs/pictures"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / name, folder / name, ignore=ignored)
    (folder / "results/replicates").mkdir(parents=True)
    (folder / "results/replicates/MD5SUMS").touch()
    (folder / ".dvc").mkdir()
    settings = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml", *settings):
        shutil.copy(root / name, folder / name)
    stub = folder / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB.replace("{python}", sys.executable).replace("{{}}", "{}"))
    stub.chmod(0o755)
    with (folder / ".gitignore").open("a") as ignore:
        ignore.write("/ran.log\n")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def environment(project: Path) -> dict[str, str]:
    path = f"{project}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return checkout.environment(PATH=path, DVC_NO_ANALYTICS="1")


def repro(project: Path, *command: str) -> list[str]:
    """Run the pipeline; what the stub was called for."""
    log = project / "ran.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        command or ("dvc", "repro"),
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.rstrip() for line in log.read_text().splitlines()] if log.exists() else []
