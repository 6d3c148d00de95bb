"""What a fresh interpreter loads: commands that need no torch start without it, and nothing
undeclared is imported.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "open_clip", "transformers", "sacred", "pymongo"}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("repro.__main__", HEAVY | {"matplotlib", "pandas", "scipy", "pydantic"}),
        ("repro.profile", HEAVY | {"matplotlib", "pandas", "scipy"}),
        ("repro.report.build", HEAVY),
        ("repro.launch.driver", {"torch", "torchvision", "open_clip"}),
    ],
)
def test_a_module_starts_without_heavy_packages(root: Path, module: str, without: set[str]) -> None:
    """In an interpreter of its own."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) & without == set()


def declared(root: Path) -> set[str]:
    """Distributions that pyproject.toml names, extras included, in normal form."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    return {normal(re.split(r"[ <>=!~;\[]", line)[0]) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("folder", ["repro", "tests", "benchmarks"])
def test_every_imported_package_is_declared(root: Path, folder: str) -> None:
    """An import that works only because some dependency brings the package along breaks with that
    dependency's next release.
    """
    providers = importlib.metadata.packages_distributions()
    # In an environment of its own: requirements-fetch.txt.
    allowed = declared(root) | {"repro", "img2dataset"}
    known = {*sys.stdlib_module_names, "repro", "tests", "benchmarks"}
    undeclared = set()
    for file in sorted((root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {name.partition(".")[0] for name in names} - known:
                if not {normal(provider) for provider in providers.get(top, [top])} & allowed:
                    undeclared.add(f"{file.relative_to(root)}: {top}")
    assert undeclared == set()


def test_every_declared_package_is_pinned_but_torch(root: Path) -> None:
    pins = {
        normal(line.partition("==")[0])
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert declared(root) - pins == {"torch", "torchvision"}
