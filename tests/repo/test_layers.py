"""Imports inside the package go one way, and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CONTRACTS = {"spec", "profile", "ledger", "files", "intervals"}
SHAPES = {"report.format", "report.schema"}
ALLOWED = {
    # contracts
    "spec": set(),
    "files": {"spec"},
    "intervals": set(),
    "markdown": {"files"},
    "profile": {"spec"},
    "ledger": {"spec", "files"},
    "events": set(),
    # what a run does
    "data": CONTRACTS,
    "train.views": CONTRACTS | {"data"},
    "train": CONTRACTS | {"data", "train.views"},
    "sources": CONTRACTS | {"data"},
    "sources.emoji": CONTRACTS | {"data", "sources"},
    "sources.shards": CONTRACTS | {"data", "sources"},
    "sources.download": CONTRACTS | {"data"},
    "evaluate": CONTRACTS | {"data", "sources.shards", "train", "train.views"},
    "worker": CONTRACTS | {"events", "data", "train", "evaluate"},
    # what a run is, and where it goes
    "runs": CONTRACTS,
    "tracking": CONTRACTS | {"events", "runs"},
    "tracking.server": CONTRACTS | {"events", "runs", "tracking"},
    "launch": CONTRACTS | {"events", "runs", "tracking", "tracking.server"},
    # what a profile costs; the schedule has no tensors
    "plan": CONTRACTS | {"markdown", "data", "train", "evaluate", "worker", "runs", "launch"},
    "study": CONTRACTS | {"markdown", "data", "sources", "runs", "launch"},
    # what came out: how it is printed, its shape, what it is computed by, and what shows it
    "report.format": set(),
    "report.schema": {"spec", "ledger", "intervals"},
    "report.numbers": CONTRACTS | {"plan", "study", *SHAPES},
    "report.studies": CONTRACTS | {"study", "report.numbers", *SHAPES},
    "report.pages": CONTRACTS | {"markdown", "study", "report.numbers", "report.studies", *SHAPES},
    "report": CONTRACTS | {"study", "report.numbers", "report.studies", "report.pages", *SHAPES},
    "reproduce": CONTRACTS,
}
"""Part of the package -> the other parts it may import. The command line imports all."""


def part_of(module: str) -> str:
    """The room or sub-room (`report.numbers`) that holds a module; a module of the root is its own part."""
    names = module.split(".")[1:]
    return next(
        (".".join(names[:size]) for size in (2, 1) if ".".join(names[:size]) in ALLOWED), names[0]
    )


def imported_parts(file: Path, package: Path) -> set[str]:
    """Parts of `repro` that a file imports, wherever in the file the import stands."""
    parts = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue

        for name in names:
            first, _, rest = name.partition(".")
            part = rest.partition(".")[0]
            known = (package / part).is_dir() or (package / f"{part}.py").is_file()
            if first == "repro" and part and known:
                parts.add(part_of(name))
    return parts


def files_of(package: Path) -> list[Path]:
    return [
        file
        for file in sorted(package.rglob("*.py"))
        if file.name not in ("__main__.py", "__init__.py") or file.parent != package
    ]


def test_every_import_goes_down_the_layers(root: Path) -> None:
    package = root / "repro"
    wrong = []
    for file in files_of(package):
        part = part_of(".".join(file.relative_to(root).with_suffix("").parts))
        assert part in ALLOWED, f"repro/{part} is new: say in ALLOWED what it may import"
        beyond = imported_parts(file, package) - ALLOWED[part] - {part}
        wrong += [f"{file.relative_to(root)} imports repro.{name}" for name in sorted(beyond)]
    assert wrong == []


def test_the_layers_have_no_cycle() -> None:
    """Taking away parts whose imports are all gone must empty the table."""
    left = dict(ALLOWED)
    while left:
        free = [part for part, below in left.items() if not below & left.keys()]
        assert free, f"cycle among {sorted(left)}"
        for part in free:
            del left[part]


def test_an_import_upwards_would_be_seen(tmp_path: Path) -> None:
    package = tmp_path / "repro"
    for part in ("data", "report"):
        (package / part).mkdir(parents=True)
    (package / "data" / "x.py").write_text(
        "def f():\n    from repro.report import render\n    import repro.data.y, torch\n"
    )
    assert imported_parts(package / "data" / "x.py", package) == {"report", "data"}


@pytest.mark.parametrize("pattern", ["repro/**/*.py", "tests/**/*.py"])
def test_no_file_is_longer_than_a_subject(root: Path, pattern: str) -> None:
    """400 lines; the schema of the specifications, declarations all, may be longer."""
    limits = {"repro/spec.py": 550}
    lengths = {
        file.relative_to(root).as_posix(): len(file.read_bytes().splitlines())
        for file in root.glob(pattern)
    }
    assert {
        name: length for name, length in lengths.items() if length > limits.get(name, 400)
    } == {}
