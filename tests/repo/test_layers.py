"""Imports inside the package go one way: down the layers, without a circle."""

from __future__ import annotations

from pathlib import Path

from tests.support.imports import imported, modules

LAYERS = [
    {"names", "spec", "files", "events", "ledger", "intervals", "markdown"},
    {"consistency", "profile", "unchanged"},
    {"data"},
    {"sources", "train"},
    {"evaluate"},
    {"runs"},
    {"worker", "tracking", "integrity"},
    {"launch"},
    {"study", "plan"},
    {"report"},
    {"api", "check", "cli", "reproduce", "__main__"},
]
"""Parts of the package from the bottom up: one imports its own layer and those below."""


def upward_imports(package: Path) -> list[str]:
    """Imports of a higher layer; KeyError for a part that LAYERS does not have."""
    heights = {part: height for height, layer in enumerate(LAYERS) for part in layer}
    known = {name: file for name, file in modules(package).items() if name != package.name}
    return [
        f"{module} imports {other}"
        for module, file in known.items()
        for other in sorted(imported(file, known))
        if heights[other.split(".")[1]] > heights[module.split(".")[1]]
    ]


def modules_in_circles(package: Path) -> list[str]:
    """Modules that import each other in a circle, with those that import them."""
    known = modules(package)
    left = {name: imported(file, known) - {name} for name, file in known.items()}
    while free := [name for name, below in left.items() if not below & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_every_import_goes_down_the_layers(root: Path) -> None:
    assert upward_imports(root / "repro") == []


def test_no_modules_import_each_other_in_a_circle(root: Path) -> None:
    """Imports inside functions count too: one that hides a circle is a circle."""
    assert modules_in_circles(root / "repro") == []
