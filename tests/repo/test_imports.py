"""Imports: down the layers, declared, light; and no way from data to execution in the syntax."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as normal

from tests.support.imports import imported, modules

HEAVY = {"torch", "torchvision", "open_clip", "transformers", "sacred", "pymongo"}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("repro", HEAVY | {"numpy", "pandas"}),
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
    loaded = set(done.stdout.split())
    assert loaded & without == set()


def requirements(root: Path) -> list[Requirement]:
    """What pyproject.toml demands, extras included."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [*map(Requirement, lines)]


def declared(root: Path) -> set[str]:
    """Their distributions, in normal form."""
    return {normal(requirement.name) for requirement in requirements(root)}


def top_levels(file: Path) -> set[str]:
    """Packages that a file imports, by the first part of their names."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("folder", ["repro", "tests", "benchmarks"])
def test_every_imported_package_is_declared(root: Path, folder: str) -> None:
    """What some dependency brings along may be gone with that dependency's next release."""
    providers = importlib.metadata.packages_distributions()
    # In an environment of its own: requirements-fetch.txt.
    allowed = declared(root) | {"repro", "img2dataset"}
    known = {*sys.stdlib_module_names, "repro", "tests", "tools", "benchmarks"}
    undeclared = set()
    for file in sorted((root / folder).rglob("*.py")):
        for top in top_levels(file) - known:
            distributions = {normal(provider) for provider in providers.get(top, [top])}
            if not distributions & allowed:
                undeclared.add(f"{file.relative_to(root)}: {top}")
    assert undeclared == set()


def test_every_declared_package_is_pinned(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    assert not declared(root) - pins


LAYERS = [
    {"names", "spec", "files", "events", "ledger", "intervals", "markdown"},
    {"consistency", "profile", "edits"},
    {"data"},
    {"sources", "train"},
    {"evaluate"},
    {"runs"},
    {"plan"},
    {"worker", "tracking"},
    {"launch"},
    {"study"},
    {"report"},
    {"view"},
    {"api", "check", "cli", "reproduce", "__main__"},
]
"""Parts of the package from the bottom up: one imports its own layer and those below."""


def test_every_import_goes_down_the_layers(root: Path) -> None:
    """KeyError for a part that LAYERS does not have."""
    heights = {part: height for height, layer in enumerate(LAYERS) for part in layer}
    known = modules(root / "repro")
    del known["repro"]

    def height(module: str) -> int:
        return heights[module.split(".")[1]]

    for module, file in known.items():
        for other in imported(file, known):
            assert height(other) <= height(module), (module, other)


def test_no_modules_import_each_other_in_a_circle(root: Path) -> None:
    """Imports inside functions count too: one that hides a circle is a circle."""
    known = modules(root / "repro")
    graph = {name: imported(file, known) - {name} for name, file in known.items()}
    TopologicalSorter(graph).prepare()


RUN_WHAT_THEY_GET = {
    *("importlib.import_module", "runpy.run_path", "shutil.unpack_archive"),
    *("torch.jit.load", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle"),
}
"""Calls that the package must not make, besides those that `make lint` finds by ruff's rules S."""
SAFE_BY: dict[str, tuple[str, tuple[object, ...]]] = {
    "torch.load": ("weights_only", (True,)),
    "np.load": ("allow_pickle", (False,)),
    "numpy.load": ("allow_pickle", (False,)),
    # The round-trip loader makes no objects either, and knows the lines of what it reads.
    "YAML": ("typ", ("safe", "rt")),
}
"""Calls that need one argument, written out."""


def unsafe(tree: ast.Module) -> Iterator[str]:
    """What in a module could run data, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {word.arg: getattr(word.value, "value", ...) for word in node.keywords}
            if name in RUN_WHAT_THEY_GET:
                yield f"{node.lineno}: {name}"
            word, allowed = SAFE_BY.get(name, ("", (None,)))
            if words.get(word) not in allowed:
                yield f"{node.lineno}: {name} without {word}={allowed[0]!r}"
            escaped = words.get("autoescape") is True or "finalize" in words
            passed_on = None in words  # **options: the callers are looked at instead
            environments = ("jinja2.Environment", "jinja_environment")
            if name in environments and not escaped and not passed_on:
                yield f"{node.lineno}: {name} without autoescape=True, or a filter of what it prints"


def test_nothing_in_the_package_runs_data(root: Path) -> None:
    paths = list((root / "repro").rglob("*.py"))
    assert paths
    found = []
    for path in paths:
        tree = ast.parse(path.read_bytes())
        found += [f"{path}: {line}" for line in unsafe(tree)]
    assert found == []
