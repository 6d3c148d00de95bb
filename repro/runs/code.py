"""The code that determines results, as one hash over definitions: what the worker reaches, and
nothing else.

From ENTRY, names are followed to functions, classes and constants at the top of the package's
modules. The hash is over their syntax, in which a name that stands for another definition is
replaced by that definition's own name and a name of another package by its full one. So a module
may be moved, a definition may go to another module, and an import may be written another way
without a change of the hash, as may comments, docstrings and layout; a changed line that is reached
changes it. Statements that run when a reached module is imported count too.

What cannot be followed is code that is found by a string, as by `getattr`: a module that is used as
a value counts whole.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import repro
from repro.runs.modules import PACKAGE, Definition, ModuleTree, imported, is_own, is_text

ENTRY = ("repro.worker", "main")
"""Module and function that compute a run; how its inputs were made shows in their hashes."""
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def code_version(root: Path | None = None) -> str:
    """Hash of the code that determines results, 16 hex digits; `root` is the folder that holds the
    package.
    """
    root = root or Path(repro.__file__).parent.parent
    states = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        state = path.stat()
        # Size, time and inode tell whether a file changed: the hash is cached by them.
        states.append((path.as_posix(), state.st_size, state.st_mtime_ns, state.st_ino))
    return _version(root, tuple(states))


@lru_cache(maxsize=2)
def _version(root: Path, states: tuple[tuple[str, int, int, int], ...]) -> str:
    """The hash, computed once for the states of all files of the package."""
    reached = reached_definitions(root)

    labels = labels_of(reached)
    # Sorted by label, so that the hash does not depend on the order in which names are met.
    content = sorted([labels[key], syntax_of(item, labels)] for key, item in reached.items())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def reached_definitions(root: Path | None = None) -> dict[Definition, Any]:
    """Every definition that ENTRY reaches, and its syntax with references to others.

    Statements that run at import stand under the name `<import>` of their module.
    """
    tree = ModuleTree(root or Path(repro.__file__).parent.parent)
    todo, reached = [Definition(*ENTRY)], {}
    while todo:
        key = todo.pop()
        if key in reached:
            continue

        reader = _Reader(tree, key.module)
        source = tree.source(key.module)
        if key.name == IMPORT:
            reached[key] = [reader.read(node, _Scope()) for node in source.loose]
        else:
            reached[key] = [reader.read(node, _Scope()) for node in source.definitions[key.name]]

        # What this module, and those that it imports, run at import counts as well.
        todo += reader.references
        todo += [Definition(module, IMPORT) for module in tree.loaded_by(key.module)]

    # Modules without such statements leave no trace in the hash.
    return {key: item for key, item in reached.items() if item}


IMPORT = "<import>"
"""Name under which the statements of a module stand that run at import."""


def syntax_of(item: Any, labels: dict[Definition, str]) -> Any:
    """Syntax as nested lists, its references written as labels."""
    if isinstance(item, Definition):
        return ["Definition", labels.get(item, "")]
    if isinstance(item, list):
        return [syntax_of(part, labels) for part in item]
    return item


def labels_of(reached: dict[Definition, Any]) -> dict[Definition, str]:
    """A name for each definition that does not tell its module: where two share one, the syntax
    tells them apart.
    """
    by_name: dict[str, list[Definition]] = {}
    for key in reached:
        by_name.setdefault(key.name, []).append(key)

    labels = {}
    for name, keys in by_name.items():
        for key in keys:
            labels[key] = name
            if len(keys) > 1:
                shape = json.dumps(syntax_of(reached[key], {}))
                labels[key] += ":" + hashlib.sha256(shape.encode()).hexdigest()[:16]
    return labels


@dataclass(frozen=True)
class _Scope:
    """What names mean inside functions: those that are theirs, and those that they import."""

    local: frozenset[str] = frozenset()
    imports: tuple[tuple[str, str], ...] = ()

    def inside(self, local: set[str], imports: dict[str, str]) -> _Scope:
        """The scope of a function within this one."""
        # A name that the function imports is its own, but what it stands for is known.
        kept = dict(self.imports) | imports
        hidden = (self.local | local) - set(imports)
        return _Scope(
            frozenset(hidden),
            tuple((n, t) for n, t in kept.items() if n not in local - set(imports)),
        )


class _Reader:
    """Reads the syntax of one definition and collects the definitions that it refers to."""

    def __init__(self, tree: ModuleTree, module: str) -> None:
        self.tree, self.module, self.source = tree, module, tree.source(module)
        self.references: list[Definition] = []

    def read(self, node: Any, scope: _Scope) -> Any:
        """Syntax as nested lists without empty fields, bare strings and imports; equal across
        Python versions.
        """
        # Docstrings and imports change nothing; where an import leads shows where its name is used.
        if isinstance(node, list):
            kept = [
                item
                for item in node
                if not is_text(item) and not isinstance(item, ast.Import | ast.ImportFrom)
            ]
            return [self.read(item, scope) for item in kept]

        if not isinstance(node, ast.AST):
            return repr(node)

        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            meant = self._meant(node, scope)
            if meant is not None:
                return meant
        if isinstance(node, Function):
            return self._function(node, scope)
        if isinstance(node, Comprehension):
            return self._comprehension(node, scope)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._assigned(node.id, scope)
        return self._fields(node, scope)

    def _fields(self, node: ast.AST, scope: _Scope, apart: tuple[str, ...] = ()) -> list[Any]:
        fields = [
            [name, self.read(value, scope)]
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in apart
        ]
        return [type(node).__name__, *fields]

    def _meant(self, node: ast.Name | ast.Attribute, scope: _Scope) -> Any:
        """What `name` or `name.attribute...` stands for; None if it is an ordinary name or
        expression.
        """
        # `a.b.c` is the root `a` and the chain [b, c].
        chain: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id in scope.local:
            return None

        imports = self.source.imports | dict(scope.imports)
        if root.id in self.source.definitions and root.id not in dict(scope.imports):
            found: Definition | str = Definition(self.module, root.id)
        elif root.id in imports:
            found = imports[root.id]
        else:
            return None

        # Imports are followed through modules that hand a name on, to where it is defined.
        if isinstance(found, str) and is_own(found):
            found = self.tree.resolve(found)
            while isinstance(found, str) and is_own(found) and chain:
                found = self.tree.resolve(f"{found}.{chain.pop(0)}")

        # Still a name: one of another library, or a module of the package itself.
        if isinstance(found, str):
            if not is_own(found):
                return ["Name", ".".join([found, *chain])]
            return self._whole(found)

        self.references.append(found)
        return [found, *(["Attribute", name] for name in chain)]

    def _whole(self, module: str) -> Any:
        """A module that is used as a value: all that it defines."""
        if self.tree.path(module) is None:
            return ["Unknown", module.rpartition(".")[2]]
        keys = [Definition(module, name) for name in self.tree.source(module).definitions]
        self.references += keys
        return ["Module", *keys]

    def _assigned(self, name: str, scope: _Scope) -> None:
        """A function that assigns to a name of its module refers to it."""
        if name in self.source.definitions and name not in scope.local:
            self.references.append(Definition(self.module, name))

    def _function(self, node: Function, scope: _Scope) -> Any:
        """Decorators, defaults and annotations belong to the scope around, the body to the
        function's own.
        """
        local, imports = _bound_in(node)
        inner = scope.inside(local, imports)
        outer = self._fields(node, scope, apart=("body",))
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        return [*outer, ["body", self.read(body, inner)]]

    def _comprehension(self, node: Comprehension, scope: _Scope) -> Any:
        """Its targets are its own; its first iterable is read in the scope around."""
        local = {
            part.id
            for generator in node.generators
            for part in ast.walk(generator.target)
            if isinstance(part, ast.Name)
        }

        first = self.read(node.generators[0].iter, scope)
        return [first, self._fields(node, scope.inside(local, {}))]


def _bound_in(function: Function) -> tuple[set[str], dict[str, str]]:
    """Names that are the function's own, and those that it imports; not those of functions inside
    it.
    """
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
    local = {item.arg for item in named}
    imports: dict[str, str] = {}
    shared: set[str] = set()

    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    # Not `ast.walk`, which would enter the functions inside.
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= imported(node)
        elif isinstance(node, ast.Global):
            shared |= set(node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            local.add(node.name)
            continue
        elif isinstance(node, ast.Lambda | Comprehension):
            continue
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            local.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            local.add(node.name)
        todo += ast.iter_child_nodes(node)
    return local - shared, imports
