"""The package's modules as their definitions, imports and other statements; nothing is imported to
read them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "repro"


class Definition(NamedTuple):
    """A function, class or constant at the top of a module."""

    module: str
    name: str


@dataclass
class Source:
    """A parsed module of the package."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    """Name to the statements that bind it."""
    imports: dict[str, str] = field(default_factory=dict)
    """Name to what it was imported as: `np` to `numpy`, `emit` to `repro.events.emit`."""
    loose: list[ast.stmt] = field(default_factory=list)
    """Statements that define nothing and run at import."""


class ModuleTree:
    """The package's modules, read when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, module: str) -> Path | None:
        """File of a module or package; None if there is none."""
        base = self.root / module.replace(".", "/")
        return next(
            (p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None
        )

    def source(self, module: str) -> Source:
        """The module, parsed."""
        path = self.path(module)
        assert path is not None
        state = path.stat()
        return _parsed(path, state.st_size, state.st_mtime_ns, state.st_ino)

    def loaded_by(self, module: str) -> Iterator[str]:
        """The module itself, the packages around it, and those that its top imports."""
        names = [module, *self.source(module).imports.values()]
        for name in names:
            parts = name.split(".")
            # Importing `a.b.c` runs `a` and `a.b` first.
            for size in range(1, len(parts) + 1):
                if parts[0] == PACKAGE and self.path(".".join(parts[:size])) is not None:
                    yield ".".join(parts[:size])

    def resolve(self, dotted: str) -> Definition | str:
        """What a full name of the package stands for: a definition, or a module's name.

        Names that a module imports are followed to where they are defined; what is defined nowhere,
        as it is.
        """
        if self.path(dotted) is not None:
            return dotted

        module, _, name = dotted.rpartition(".")
        if self.path(module) is None:
            return dotted

        source = self.source(module)
        if name in source.definitions:
            return Definition(module, name)
        # Imported there from elsewhere: follow it.
        if name in source.imports:
            target = source.imports[name]
            return self.resolve(target) if is_own(target) else target
        return dotted


@cache
def _parsed(path: Path, size: int, mtime_ns: int, inode: int) -> Source:
    """Parse a file once for its size, time and inode."""
    source = Source()
    _sort(ast.parse(path.read_bytes()).body, source, None)
    return source


def _sort(body: list[ast.stmt], source: Source, whole: ast.stmt | None) -> None:
    """Put the statements of a module where they belong; `whole` is the `if` or `try` around them,
    which then counts.
    """
    for node in body:
        kept = whole or node
        if isinstance(node, ast.Import | ast.ImportFrom):
            source.imports |= imported(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            source.definitions.setdefault(node.name, []).append(kept)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and (names := _targets(node)):
            for name in names:
                source.definitions.setdefault(name, []).append(kept)
        elif isinstance(node, ast.If) and _is_never_run(node):
            continue
        elif isinstance(node, ast.If | ast.Try):
            # A name bound in one branch depends on the condition too: the whole statement counts.
            blocks = [node.body, node.orelse]
            if isinstance(node, ast.Try):
                blocks += [node.finalbody, *(handler.body for handler in node.handlers)]
            before = len(source.definitions)
            for block in blocks:
                _sort(block, source, kept)
            if len(source.definitions) == before and whole is None:
                source.loose.append(node)
        elif not is_text(node) and whole is None and not isinstance(node, ast.Pass):
            source.loose.append(node)


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Names that an import binds, with the full name of what they stand for."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    # `import a.b` binds `a`; `import a.b as c` binds `c` to `a.b`.
    found = {}
    for alias in node.names:
        name = alias.asname or alias.name.partition(".")[0]
        found[name] = alias.name if alias.asname else name
    return found


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Names that an assignment binds; none if it assigns to an attribute or an item."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = []
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        # One attribute or item among them makes the whole statement loose.
        if not all(isinstance(part, ast.Name) for part in parts):
            return []
        names += [part.id for part in parts if isinstance(part, ast.Name)]
    return names


def _is_never_run(node: ast.If) -> bool:
    """`if TYPE_CHECKING` and `if __name__ == "__main__"`, which an imported module passes over."""
    return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")


def is_text(node: ast.AST) -> bool:
    """A docstring, or what stands like one."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_own(dotted: str) -> bool:
    return dotted.partition(".")[0] == PACKAGE
