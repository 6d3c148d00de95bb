"""Imports inside the package go one way, names have one meaning, rooms and files stay small."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.support.imports import imported, modules

MOST_MODULES = 13

CONTRACTS = {"spec", "profile", "ledger", "files", "intervals"}
SHAPES = {"report.format", "report.schema"}
COMPUTED = {"report.numbers", "report.judging", "report.scales", "report.studies"}
ALLOWED = {
    # contracts
    "spec": set(),
    "files": {"spec"},
    "intervals": set(),
    "markdown": {"files"},
    "consistency": {"spec"},
    "profile": {"spec", "files", "consistency"},
    "ledger": {"spec", "files"},
    "events": set(),
    # what a run does
    "data": CONTRACTS,
    "train.views": CONTRACTS | {"data"},
    "train.process": CONTRACTS,
    "train": CONTRACTS | {"data", "train.views", "train.process"},
    "sources.packages": CONTRACTS | {"data"},
    "sources.icons": CONTRACTS | {"events", "data", "markdown", "sources.packages"},
    "sources.shards": CONTRACTS | {"events", "data", "sources.packages"},
    "sources.download": CONTRACTS | {"data"},
    "sources": CONTRACTS | {"data", "sources.packages", "sources.icons", "sources.shards"},
    "evaluate": CONTRACTS | {"data", "sources.shards", "train", "train.process", "train.views"},
    # what a run is; the schedule tells which evaluations it makes
    "runs": CONTRACTS | {"train"},
    "worker": CONTRACTS | {"events", "runs", "data", "train", "train.process", "evaluate"},
    "check": CONTRACTS | {"markdown", "data", "train", "train.process", "evaluate"},
    # where it goes
    "tracking": CONTRACTS | {"events", "runs"},
    "tracking.server": CONTRACTS | {"events", "runs", "tracking"},
    "launch": CONTRACTS | {"events", "runs", "tracking", "tracking.server"},
    # what a profile costs; the schedule has no tensors
    "plan": CONTRACTS
    | {
        "markdown",
        "data",
        "train",
        "train.process",
        "train.views",
        "evaluate",
        "worker",
        "runs",
        "launch",
    },
    "study": CONTRACTS | {"markdown", "data", "sources", "runs", "launch"},
    # what lies on disk: is it still what was made
    "integrity": CONTRACTS | {"data", "runs"},
    # what came out: how it is printed, its shape, what it is computed by, and what shows it
    "report.format": set(),
    "report.schema": {"spec", "ledger", "intervals"},
    "report.numbers": CONTRACTS | {"runs", "plan", *SHAPES},
    "report.judging": CONTRACTS | {"report.numbers", *SHAPES},
    "report.studies": CONTRACTS | {"runs", "study", "report.numbers", "report.judging", *SHAPES},
    "report.scales": CONTRACTS | {"report.numbers", "report.judging", "report.studies", *SHAPES},
    "report.figures": {"report.numbers", *SHAPES},
    "report.pages": CONTRACTS | {"markdown", "report.figures", *COMPUTED, *SHAPES},
    "report.article": {"report.figures", "report.pages", *COMPUTED, *SHAPES},
    "report": CONTRACTS
    | {
        "runs",
        "study",
        "integrity",
        "report.figures",
        "report.pages",
        "report.article",
        *COMPUTED,
        *SHAPES,
    },
    "cli": CONTRACTS | {"events", "runs", "train.process", "worker"},
}
"""Part of the package -> the other parts it may import. The command line imports all."""


def part_of(module: str) -> str:
    """The room or sub-room (`report.numbers`) that holds a module; a module of the root is its own
    part.
    """
    names = module.split(".")[1:]
    for size in (2, 1):
        if ".".join(names[:size]) in ALLOWED:
            return ".".join(names[:size])

    return names[0]


def parts_below(package: Path) -> dict[str, set[str]]:
    """Every module of the package -> the other parts that it imports."""
    known = modules(package)
    below = {}
    for name, file in known.items():
        if name in ("repro", "repro.__main__"):
            continue
        # `from repro.data import x` names the face of the room and the module; the module counts.
        found = {part_of(other) for other in imported(file, known) if other != "repro"}
        below[name] = found - {part_of(name)}

    return below


def test_every_import_goes_down_the_layers(root: Path) -> None:
    wrong = []
    for module, below in parts_below(root / "repro").items():
        part = part_of(module)
        assert part in ALLOWED, f"{module} is in a new part: say in ALLOWED what it may import"

        # The face of a room has a docstring alone, so importing a sub-room through it is no import
        # of the room.
        faces = {room for room in below for inner in below if inner.startswith(f"{room}.")}
        wrong += [
            f"{module} imports repro.{name}" for name in sorted(below - ALLOWED[part] - faces)
        ]

    assert wrong == []


def test_the_layers_have_no_cycle() -> None:
    """Taking away parts whose imports are all gone must empty the table."""
    left = dict(ALLOWED)
    while left:
        free = [part for part, below in left.items() if not below & left.keys()]
        assert free, f"cycle among {sorted(left)}"
        for part in free:
            del left[part]


def test_no_modules_import_each_other_in_a_circle(root: Path) -> None:
    """Imports inside functions count too: one that hides a circle is a circle."""
    known = modules(root / "repro")
    left = {name: imported(file, known) - {name} for name, file in known.items()}
    while left:
        free = [name for name, below in left.items() if not below & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]

    assert sorted(left) == []


def test_faces_of_rooms_import_nothing_of_the_package(root: Path) -> None:
    """Else importing one module of a room would start the others, and the layers would not be what
    they seem.
    """
    known = modules(root / "repro")
    faces = {name: file for name, file in known.items() if file.name == "__init__.py"}
    assert {name: found for name, file in faces.items() if (found := imported(file, known))} == {}


def test_an_import_upwards_would_be_seen(tmp_path: Path) -> None:
    package = tmp_path / "repro"
    for part in ("data", "report"):
        (package / part).mkdir(parents=True)
        (package / part / "__init__.py").touch()
    (package / "data" / "y.py").touch()
    (package / "report" / "build.py").touch()
    text = "def f():\n    from repro.report import build\n    import repro.data.y, torch\n"
    (package / "data" / "x.py").write_text(text)

    assert parts_below(package)["repro.data.x"] == {"report"}


def public_names(file: Path) -> set[str]:
    """Classes and functions of a module that begin with a letter."""
    tree = ast.parse(file.read_bytes())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"}


def test_a_public_name_occurs_once_in_the_package(root: Path) -> None:
    """One word, one meaning: whoever reads a name need not ask which one is meant."""
    homes = defaultdict(list)
    for module, file in modules(root / "repro").items():
        for name in public_names(file):
            homes[name].append(module)

    homes.pop("main")  # every program has one
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_a_room_holds_about_ten_modules(root: Path) -> None:
    counts = Counter(
        file.parent for file in modules(root / "repro").values() if file.stem != "__init__"
    )
    full = {
        folder.relative_to(root).as_posix(): n for folder, n in counts.items() if n > MOST_MODULES
    }
    assert full == {}


@pytest.mark.parametrize(("pattern", "most"), [("repro/**/*.py", 400), ("tests/**/*.py", 450)])
def test_no_file_is_longer_than_a_subject(root: Path, pattern: str, most: int) -> None:
    """The schema of the specifications, declarations all, may be longer."""
    limits = {"repro/spec.py": 550}
    lengths = {
        file.relative_to(root).as_posix(): len(file.read_bytes().splitlines())
        for file in root.glob(pattern)
    }
    assert {name: size for name, size in lengths.items() if size > limits.get(name, most)} == {}
