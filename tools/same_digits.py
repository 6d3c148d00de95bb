"""Train the profile `smoke` at two commits, and compare names, rows and weights of its runs, as in
`python -m tools.same_digits main`. The second commit is HEAD unless it is named.

The exit status is 1 where anything but wall times differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from repro.files import file_sha256

PROFILE = "smoke"
CALLS = (
    "resolve",
    "data",
    "poison --dataset cc3m",
    "poison --dataset cc6m",
    "pretrain --dataset cc3m --objective mmcl",
    "pretrain --dataset cc6m --objective mmcl",
    "clean --dataset cc3m --objective mmcl",
    "clean --dataset cc6m --objective mmcl",
)
"""Commands that make all results of PROFILE: one objective's makes those of the other too."""
UNCOMPARED = {"seconds", "fingerprint", "schema_version"}
"""Fields of a row that may differ between equal results."""


@click.command(help=__doc__)
@click.argument("before")
@click.argument("after", default="HEAD")
def main(before: str, after: str) -> None:
    """Print what differs; SystemExit with 1 if anything does."""
    with TemporaryDirectory() as folder:
        old, new = (results(made(Path(folder, of), of)) for of in (before, after))
    differing = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    for name in differing:
        print(f"{name}: {old.get(name)} -> {new.get(name)}")
    print(f"{len(old)} values of {before} compared with {after}: {len(differing)} differ")
    sys.exit(bool(differing))


def made(folder: Path, commit: str) -> Path:
    """A clone at the commit in which PROFILE was trained, with the npm packages of this one."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ".", folder], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=folder, check=True)
    packages = Path("data/npm")
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data/npm").symlink_to(packages.resolve())
    for call in CALLS:
        command = [sys.executable, "-m", "repro", *call.split(), "--profile", PROFILE]
        environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
        subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder


def results(folder: Path) -> dict[str, str]:
    """By name: hashes of weights, and each field of each row as text, in which NaN equals NaN."""
    return dict(_results(folder))


def _results(folder: Path) -> Iterator[tuple[str, str]]:
    for path in (folder / "models" / PROFILE).rglob("*.safetensors"):
        yield path.relative_to(folder).as_posix(), file_sha256(path)
    for path in (folder / "results" / PROFILE).rglob("rows.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            name = f"{path.parent.relative_to(folder).as_posix()}, step {row['step']}"
            for field in row.keys() - UNCOMPARED:
                yield f"{name}: {field}", json.dumps(row[field], sort_keys=True)


if __name__ == "__main__":
    main()
