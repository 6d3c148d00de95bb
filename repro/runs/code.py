"""The code that determines results, as a hash; comments, docstrings and formatting do not count."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import repro
from repro.spec import digest

ENTRY = "repro.worker"
"""The module whose code, with all it imports of the package, determines results; how inputs were made shows in their hashes."""


def code_version() -> str:
    """Hash of the code that determines results; comments, docstrings and formatting do not count."""
    root = Path(repro.__file__).parent.parent
    trees: dict[str, ast.AST] = {}
    todo = [ENTRY]
    while todo:
        module = todo.pop()
        path = root / (module.replace(".", "/") + ".py")
        if module not in trees and path.is_file():
            trees[module] = ast.parse(path.read_bytes())
            todo += _imports(trees[module])
    return digest([[module, syntax(tree)] for module, tree in sorted(trees.items())])


def _imports(tree: ast.AST) -> list[str]:
    """Modules of the package that a module imports, `from repro import x` as `repro.x`."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] == "repro"
        ):
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def syntax(node: Any) -> Any:
    """A syntax tree as nested lists, without empty fields and bare strings; equal across Python versions."""
    if isinstance(node, list):
        return [
            syntax(item)
            for item in node
            if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        ]
    if isinstance(node, ast.AST):
        fields = [
            [name, syntax(value)]
            for name, value in ast.iter_fields(node)
            if value not in (None, [])
        ]
        return [type(node).__name__, *fields]
    return repr(node)
