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


def loaded_by(statement: str, root: Path) -> set[str]:
    """Top-level packages in sys.modules after a statement, in an interpreter of its own."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_starts_without_heavy_packages(root: Path) -> None:
    statement = (
        "from repro.cli.calls import build_parser\nimport repro.spec, repro.ledger\nbuild_parser()"
    )
    assert loaded_by(statement, root) & (HEAVY | {"matplotlib", "pandas", "scipy"}) == set()


def test_the_report_imports_no_torch(root: Path) -> None:
    modules = [
        file.stem
        for file in sorted((root / "repro" / "report").glob("*.py"))
        if file.stem != "__init__"
    ]
    statement = "import repro.report\n" + "".join(
        f"import repro.report.{module}\n" for module in modules
    )
    assert loaded_by(statement, root) & HEAVY == set()


def test_the_launcher_and_the_pipeline_wrapper_import_no_torch(root: Path) -> None:
    assert (
        loaded_by("import repro.launch, repro.cli.reproduce", root)
        & {"torch", "torchvision", "open_clip"}
        == set()
    )


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
    # In environments of their own: requirements-fetch.txt, and the validator of
    # tests/crate_validator.py with what it brings.
    allowed = declared(root) | {"repro", "img2dataset", "rocrate-validator", "requests"}
    beside = {path.stem for path in (root / "tests").rglob("*.py")}
    undeclared = set()
    for file in sorted((root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if (
                    top in sys.stdlib_module_names
                    or top in ("repro", "tests", "benchmarks")
                    or top in beside
                ):
                    continue
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
